// One side of a throughput measurement with the real udx-native.
//   node bench.js receive       prints its port, then {"bytes", "cpu"} at the end of the stream
//   node bench.js send PORT BYTES  prints its port, then {"seconds", "cpu"} when all was acknowledged
// The other side is a program of the same kind, and learns our address from the first packet. Both ids are 2.
const UDX = require('udx-native')
const [mode, port, bytes] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])]
const ID = 2

const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, '127.0.0.1')
let before
const cpu = () => {
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}
const stream = udx.createStream(ID, {
  firewall: (from, fromPort, host) => {
    if (!stream.connected) {
      before = process.cpuUsage()
      stream.connect(from, ID, fromPort, host)
    }
    return false
  }
})
stream.on('error', () => {})
stream.on('close', () => process.exit(0))
console.log(socket.address().port)

if (mode === 'receive') {
  let total = 0
  stream.on('data', (data) => { total += data.length })
  stream.on('end', () => {
    console.log(JSON.stringify({ bytes: total, cpu: cpu() }))
    stream.end()
  })
} else {
  const chunk = Buffer.alloc(65536, 7)
  before = process.cpuUsage()
  const started = process.hrtime.bigint()
  stream.connect(socket, ID, port, '127.0.0.1')
  let sent = 0
  const more = () => {
    while (sent < bytes) {
      sent += chunk.length
      if (!stream.write(chunk)) return stream.once('drain', more)
    }
    stream.flush().then(() => {
      console.log(JSON.stringify({ seconds: Number(process.hrtime.bigint() - started) / 1e9, cpu: cpu() }))
      stream.end()
    })
  }
  stream.resume()
  more()
}
