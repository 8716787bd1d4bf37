import { connect } from "node:http2";

const session = connect(new URL(process.env.URL).origin);
const stream = session.request({ ":path": new URL(process.env.URL).pathname, "user-agent": "node" });
stream.setEncoding("utf8");
stream.on("data", (text) => process.stdout.write(text));
stream.on("end", () => session.close());
