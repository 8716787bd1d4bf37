console.log(await (await fetch(process.env.URL)).text());
