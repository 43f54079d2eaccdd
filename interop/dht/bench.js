// One side of a measurement of connections with the real hyperdht. It ends when stdin closes.
//   node bench.js serve BOOTSTRAP          an echo server: prints its public key, then, for every line on stdin, {"open", "rss"}
//   node bench.js connect BOOTSTRAP KEY N  N connections, one after the other: prints {"seconds": [...], "cpu"}
//   node bench.js hold BOOTSTRAP KEY N     N connections, kept: prints {"open"} when all are there
//   node bench.js crowd BOOTSTRAP KEY N    N connections with fresh key pairs, 16 at once: prints {"seconds": [...], "elapsed"}
//   node bench.js lookups BOOTSTRAP KEY N  N lookups of the server's announcement, 16 at once: prints the same
const { readFileSync } = require('fs')
const readline = require('readline')
const DHT = require('hyperdht')

const [mode, bootstrap, key, count] = process.argv.slice(2)
const HOST = '127.0.0.1'
// So that nobody's ration of handshakes is the measure.
const PAUSE = 10

const AT_ONCE = 16

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function resident () {
  const line = readFileSync('/proc/self/status', 'utf8').split('\n').find((line) => line.startsWith('VmRSS:'))
  return Number(line.split(/\s+/)[1]) * 1024
}

// Resolves when a message has come back.
function open (node) {
  return new Promise((resolve, reject) => {
    const socket = node.connect(Buffer.from(key, 'hex'), { keyPair: DHT.keyPair(), localConnection: false })
    socket.on('error', reject)
    socket.on('open', () => socket.write(Buffer.from('hello')))
    socket.once('data', () => resolve(socket))
  })
}

async function lookup (node) {
  let peers = 0
  for await (const answer of node.lookup(DHT.hash(Buffer.from(key, 'hex')))) peers += answer.peers.length
  if (peers === 0) throw new Error('the announcement of the server was not found')
}

async function crowd (node) {
  const seconds = []
  let left = Number(count)
  const begun = process.hrtime.bigint()
  const work = async () => {
    while (left-- > 0) {
      const started = process.hrtime.bigint()
      const socket = mode === 'crowd' ? await open(node) : await lookup(node)
      seconds.push(Number(process.hrtime.bigint() - started) / 1e9)
      if (socket) socket.destroy()
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
  say({ seconds, elapsed: Number(process.hrtime.bigint() - begun) / 1e9 })
}

async function main () {
  const [host, port] = bootstrap.split(':')
  const node = new DHT({ bootstrap: [{ host, port: Number(port) }], host: HOST, firewalled: false })
  await node.fullyBootstrapped()
  if (mode === 'serve') {
    let connections = 0
    const server = node.createServer({ shareLocalAddress: false }, (socket) => {
      connections++
      socket.on('error', () => {})
      socket.on('close', () => connections--)
      socket.on('data', (data) => socket.write(data))
      socket.on('end', () => socket.end())
    })
    await server.listen()
    say(server.publicKey.toString('hex'))
    readline.createInterface({ input: process.stdin })
      .on('line', () => say({ open: connections, rss: resident() }))
      .on('close', () => process.exit(0))
    return
  }
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
  if (mode === 'crowd' || mode === 'lookups') return crowd(node)
  const before = process.cpuUsage()
  const seconds = []
  const held = []
  for (let i = 0; i < Number(count); i++) {
    const started = process.hrtime.bigint()
    const socket = await open(node)
    seconds.push(Number(process.hrtime.bigint() - started) / 1e9)
    if (mode === 'hold') held.push(socket)
    else socket.destroy()
    await sleep(PAUSE)
  }
  const { user, system } = process.cpuUsage(before)
  say(mode === 'hold' ? { open: held.length } : { seconds, cpu: (user + system) / 1e6 })
}

main()
