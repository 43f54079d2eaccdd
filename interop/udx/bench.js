// One side of a throughput measurement with the real udx-native.
//   node bench.js receive PORT        prints its port, then the bytes received up to the end
//   node bench.js send PORT BYTES [ID]  prints its port, then the milliseconds until all was acknowledged
// PORT 0: learn the other side from its first packet; it is a sender of this script. Our id is 2, the other's 1, or ID.
const UDX = require('udx-native')
const [mode, port, bytes] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
const local = 2
const remote = Number(process.argv[5] || 1)

const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, '127.0.0.1')
let known = port !== 0
const stream = udx.createStream(local, {
  firewall: (from, fromPort, host) => {
    if (!known) {
      known = true
      stream.connect(from, local, fromPort, host)
    }
    return false
  }
})
stream.on('error', () => {})
console.log(socket.address().port)

if (mode === 'receive') {
  let total = 0
  if (known) stream.connect(socket, remote, port, '127.0.0.1')
  stream.on('data', (data) => { total += data.length })
  stream.on('end', () => { console.log(total); stream.end() })
  stream.on('close', () => process.exit(0))
} else {
  const chunk = Buffer.alloc(65536, 7)
  stream.connect(socket, remote, port, '127.0.0.1')
  const started = Date.now()
  let sent = 0
  const more = () => {
    while (sent < bytes) {
      sent += chunk.length
      if (!stream.write(chunk)) return stream.once('drain', more)
    }
    stream.flush().then(() => { console.log(Date.now() - started); stream.end() })
  }
  stream.resume()
  stream.on('close', () => process.exit(0))
  more()
}
