apt-get -qq -o Acquire::Retries=0 -o APT::Update::Error-Mode=any update
cd "$(mktemp -d)" && chmod 777 .
apt-get -qq download hello >/dev/null
ls | cut -d _ -f 1
