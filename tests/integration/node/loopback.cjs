// Programs that would listen on every address listen on loopback, and say on which port.
const net = require("node:net");

const { _listen2: listen } = net.Server.prototype;
net.Server.prototype._listen2 = function (address, port, family, ...rest) {
  const done = listen.call(this, address ?? "127.0.0.1", port, address ? family : 4, ...rest);
  const bound = this.address();
  if (bound !== null && typeof bound === "object") process.stderr.write(`listening ${bound.port}\n`);
  return done;
};
