// The real blind-relay and blind-peer in a measurement. It ends when stdin closes.
//   node bench.js relay BOOTSTRAP        a relay for everybody: prints its public key, then, for every line on stdin, {"cpu", "rss"}
//   node bench.js keep BOOTSTRAP         a blind peer for the app below: the same
//   node bench.js store BOOTSTRAP KEY N  an app that stores N cores of one block with a blind peer, which is to announce them:
//                                        prints {"announced": N} when all are found on the DHT, and ends
const fs = require('fs')
const os = require('os')
const path = require('path')
const readline = require('readline')
const BlindPeer = require('blind-peer')
const BlindPeering = require('blind-peering')
const Corestore = require('corestore')
const crypto = require('hypercore-crypto')
const DHT = require('hyperdht')
const blind = require('blind-relay')

const [mode, bootstrap, key, count] = process.argv.slice(2)
const HOST = '127.0.0.1'
// Who may have cores announced.
const APP = DHT.keyPair(Buffer.alloc(32, 'app'))
const AT_ONCE = 16
// Between looks for a core that is not announced yet.
const PAUSE = 500

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

function resident () {
  const line = fs.readFileSync('/proc/self/status', 'utf8').split('\n').find((line) => line.startsWith('VmRSS:'))
  return Number(line.split(/\s+/)[1]) * 1024
}

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

function answer () {
  readline.createInterface({ input: process.stdin })
    .on('line', () => {
      const { user, system } = process.cpuUsage()
      say({ cpu: (user + system) / 1e6, rss: resident() })
    })
    .on('close', () => process.exit(0))
}

// A folder that goes with the process.
function folder () {
  const name = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-bench-'))
  process.on('exit', () => fs.rmSync(name, { recursive: true, force: true }))
  return name
}

async function relay () {
  const node = new DHT({ bootstrap: [parse(bootstrap)], host: HOST, firewalled: false })
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
  answer()
}

async function keep () {
  const peer = new BlindPeer(folder(), { bootstrap: [parse(bootstrap)], trustedPubKeys: [APP.publicKey] })
  await peer.listen()
  say(peer.publicKey.toString('hex'))
  answer()
}

// Each of the items, so many at a time.
async function each (items, work) {
  const left = items.slice()
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (left.length > 0) await work(left.pop())
  }))
}

async function isAnnounced (dht, topic) {
  for await (const { peers } of dht.lookup(topic)) if (peers.length > 0) return true
  return false
}

async function store () {
  const dht = new DHT({ bootstrap: [parse(bootstrap)], host: HOST, keyPair: APP })
  const store = new Corestore(folder())
  const blind = new BlindPeering(dht, store, { keys: [key] })
  const cores = Array.from({ length: Number(count) }, (_, i) => store.get({ name: 'core ' + i }))
  await each(cores, async (core) => {
    await core.ready()
    await core.append('value')
    await blind.addCore(core, { announce: true })
  })
  await each(cores, async (core) => {
    while (!(await isAnnounced(dht, crypto.discoveryKey(core.key)))) await new Promise((resolve) => setTimeout(resolve, PAUSE))
  })
  say({ announced: cores.length })
  process.stdin.resume()
  process.stdin.on('end', () => process.exit(0))
}

const modes = { relay, keep, store }
modes[mode]()
