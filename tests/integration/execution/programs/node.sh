# says: node child worker 42 bye
cat >script.js <<'EOF'
const { Worker } = require('worker_threads'), fs = require('fs'), net = require('net');
const { execFileSync } = require('child_process');
fs.writeFileSync('n.txt', 'node'); fs.watch('.').close();
console.log(fs.readFileSync('n.txt', 'utf8'), execFileSync('echo', ['child']).toString().trim());
const job = "require('worker_threads').parentPort.postMessage(6 * 7)";
new Worker(job, { eval: true }).on('message', (m) => {
  console.log('worker', m);
  const server = net.createServer((c) => c.end('bye')).listen(0, '127.0.0.1', () =>
    net.connect(server.address().port, '127.0.0.1')
      .on('data', (d) => console.log(d.toString())).on('close', () => server.close()));
});
EOF
node script.js
