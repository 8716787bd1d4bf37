# A parent and a build extension from a private repository: mvn resolves both before it looks for plugins, of which none is at hand.
cd "$(mktemp -d)"
cat >settings.xml <<'EOF'
<settings><mirrors><mirror><id>lab</id><mirrorOf>*</mirrorOf><url>https://up.test/files/maven</url></mirror></mirrors></settings>
EOF
cat >pom.xml <<'EOF'
<project>
  <modelVersion>4.0.0</modelVersion>
  <parent><groupId>test.up</groupId><artifactId>parent</artifactId><version>1</version><relativePath/></parent>
  <artifactId>child</artifactId>
  <packaging>pom</packaging>
  <build><extensions><extension><groupId>test.up</groupId><artifactId>extension</artifactId><version>1</version></extension></extensions></build>
</project>
EOF
mvn -B -q -s settings.xml -Dmaven.repo.local="$PWD/repository" validate
find repository -name '*.jar' -printf '%f\n'
