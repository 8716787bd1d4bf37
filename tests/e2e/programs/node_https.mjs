import { get } from "node:https";

get("https://up.test/hello/node_https", { headers: { "user-agent": "node" } }, (answer) => answer.pipe(process.stdout));
