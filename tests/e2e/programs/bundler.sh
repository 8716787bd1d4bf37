# A gem from a private source.
cd "$(mktemp -d)"
printf 'source "https://up.test/files/gems/"\ngem "hutch_hello"\n' >Gemfile
export BUNDLE_PATH=vendor BUNDLE_SILENCE_ROOT_WARNING=1
bundle install --quiet --retry 0
bundle exec ruby -e 'require "hutch_hello"; puts HELLO'
