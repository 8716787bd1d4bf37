# Read at the end of setup and maintenance, inside: the filter's authority for every Java machine that came without Debian's
# packages (an archive, SDKMAN, mise, asdf, Gradle's own), by its own keytool. Must never fail what it follows, nor print anything.
for hutch_java in /usr/lib/jvm/*/ /usr/java/*/ /usr/local/*/ /opt/*/ /opt/java/*/ /usr/local/sdkman/candidates/java/*/ \
  "${HOME:-/root}"/.sdkman/candidates/java/*/ "${HOME:-/root}"/.local/share/mise/installs/java/*/ \
  "${HOME:-/root}"/.asdf/installs/java/*/ "${HOME:-/root}"/.gradle/jdks/*/ "${HOME:-/root}"/.jdks/*/ ${JAVA_HOME:+"$JAVA_HOME/"}; do
  for hutch_store in "$hutch_java"lib/security/cacerts "$hutch_java"jre/lib/security/cacerts; do
    # A link leads to Debian's store, which has it; and so has a store that says hutch.
    if [ -f "$hutch_store" ] && [ ! -L "$hutch_store" ] && ! grep -qa hutch "$hutch_store"; then
      "${hutch_store%/lib/security/cacerts}"/bin/keytool -importcert -noprompt -trustcacerts -alias hutch \
        -file /usr/local/share/ca-certificates/hutch.crt -keystore "$hutch_store" -storepass changeit >/dev/null 2>&1 || :
    fi
  done
done
