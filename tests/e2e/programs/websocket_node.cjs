const WebSocket = require("ws");

const socket = new WebSocket("wss://up.test/echo");
let got = 0;
socket.on("open", () => {
  for (let number = 0; number < 300; number++) socket.send(`message ${number}`);
});
socket.on("message", (data) => {
  if (String(data) !== `message ${got}`) throw new Error(`${data} instead of message ${got}`);
  if (++got === 300) socket.close();
});
socket.on("close", () => console.log("echoed", got));
