<?php
$curl = curl_init("https://up.test/hello/php_curl");
curl_setopt($curl, CURLOPT_USERAGENT, "php");
curl_exec($curl) || fwrite(STDERR, curl_error($curl));
