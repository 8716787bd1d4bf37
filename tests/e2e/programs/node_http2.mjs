import { connect } from "node:http2";

const session = connect("https://up.test");
const stream = session.request({ ":path": "/hello/node_http2", "user-agent": "node" });
stream.setEncoding("utf8");
stream.on("data", (text) => process.stdout.write(text));
stream.on("end", () => session.close());
