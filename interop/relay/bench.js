// The real blind-relay in a measurement. It ends when stdin closes.
//   node bench.js relay BOOTSTRAP   a relay for everybody: prints its public key, then, for every line on stdin, {"cpu", "rss"}
const { readFileSync } = require('fs')
const readline = require('readline')
const DHT = require('hyperdht')
const blind = require('blind-relay')

const bootstrap = process.argv[3]
const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

function resident () {
  const line = readFileSync('/proc/self/status', 'utf8').split('\n').find((line) => line.startsWith('VmRSS:'))
  return Number(line.split(/\s+/)[1]) * 1024
}

async function main () {
  const [host, port] = bootstrap.split(':')
  const node = new DHT({ bootstrap: [{ host, port: Number(port) }], host: '127.0.0.1', firewalled: false })
  await node.fullyBootstrapped()
  const relay = new blind.Server({
    createStream: (opts) => node.createRawStream({ ...opts, framed: true })
  })
  const server = node.createServer({ shareLocalAddress: false }, (socket) => {
    socket.on('error', () => {})
    const session = relay.accept(socket, { id: socket.remotePublicKey })
    session.on('error', () => {})
  })
  await server.listen()
  say(server.publicKey.toString('hex'))
  readline.createInterface({ input: process.stdin })
    .on('line', () => {
      const { user, system } = process.cpuUsage()
      say({ cpu: (user + system) / 1e6, rss: resident() })
    })
    .on('close', () => process.exit(0))
}

main()
