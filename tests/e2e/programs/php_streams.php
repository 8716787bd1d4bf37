<?php
ini_set("user_agent", "php");
echo file_get_contents("https://up.test/hello/php_streams");
