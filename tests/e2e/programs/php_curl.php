<?php
$curl = curl_init(getenv("URL"));
curl_setopt($curl, CURLOPT_USERAGENT, "php");
curl_exec($curl) || fwrite(STDERR, curl_error($curl));
