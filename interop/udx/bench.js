// One side of a throughput measurement with the real udx-native.
//   node bench.js receive       prints its port, then {"bytes", "cpu"} at the end of the stream
//   node bench.js send PORT BYTES  prints its port, then {"seconds", "cpu"} when all was acknowledged
//   node bench.js take HOST     prints its port, then, for every line on stdin, {"bytes"} that came so far
//   node bench.js pour HOST PORT  prints its port, and sends there until stdin closes
// The other side is a program of the same kind, and learns our address from the first packet. Both ids are 2.
const readline = require('readline')
const UDX = require('udx-native')
const mode = process.argv[2]
const ID = 2
const LOOPBACK = '127.0.0.1'
const hosts = { take: process.argv[3], pour: '0.0.0.0' }

const udx = new UDX()
const socket = udx.createSocket()
socket.bind(0, hosts[mode] || LOOPBACK)
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

function take () {
  let bytes = 0
  stream.on('data', (data) => { bytes += data.length })
  readline.createInterface({ input: process.stdin })
    .on('line', () => console.log(JSON.stringify({ bytes })))
    .on('close', () => process.exit(0))
}

function pour (host, port) {
  const chunk = Buffer.alloc(65536, 7)
  stream.connect(socket, ID, port, host)
  const more = () => {
    while (stream.write(chunk));
    stream.once('drain', more)
  }
  stream.resume()
  more()
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
}

function receive () {
  let total = 0
  stream.on('data', (data) => { total += data.length })
  stream.on('end', () => {
    console.log(JSON.stringify({ bytes: total, cpu: cpu() }))
    stream.end()
  })
}

function send (port, bytes) {
  const chunk = Buffer.alloc(65536, 7)
  before = process.cpuUsage()
  const started = process.hrtime.bigint()
  stream.connect(socket, ID, port, LOOPBACK)
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

const [, , , first, second] = process.argv
const modes = {
  receive,
  send: () => send(Number(first), Number(second)),
  take,
  pour: () => pour(first, Number(second))
}
modes[mode]()
