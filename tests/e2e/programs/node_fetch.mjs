console.log(await (await fetch("https://up.test/hello/node_fetch")).text());
