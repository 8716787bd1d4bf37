# A package from a private repository.
cd "$(mktemp -d)"
cat >composer.json <<'EOF'
{
  "repositories": [{"type": "composer", "url": "https://up.test/files/composer"}, {"packagist.org": false}],
  "require": {"up/hello": "1.0.0"}
}
EOF
export COMPOSER_ALLOW_SUPERUSER=1
composer install --quiet --no-interaction
php -r 'require "vendor/autoload.php"; echo HELLO, "\n";'
