<?php
ini_set("user_agent", "php");
echo file_get_contents(getenv("URL"));
