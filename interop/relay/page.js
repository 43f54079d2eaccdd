// A page: a JavaScript peer without UDP, whose DHT is behind a WebSocket; and a peer as everybody knows them, on UDP. One JSON
// command per line on stdin, one JSON answer per line on stdout. The process ends when stdin closes.
const fs = require('fs')
const os = require('os')
const path = require('path')
const RelayedDHT = require('@hyperswarm/dht-relay')
const SocketStream = require('@hyperswarm/dht-relay/ws')
const Corestore = require('corestore')
const DHT = require('hyperdht')
const Hyperswarm = require('hyperswarm')
const createTestnet = require('hyperdht/testnet')
const WebSocket = require('ws')
const takeCommands = require('../commands')

const HOST = '127.0.0.1'
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-page-'))
const kept = new Map()
let nextHandle = 1

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

// A peer on UDP if it gets a bootstrap list, otherwise one behind the WebSocket at `url`.
function createNode ({ bootstrap, host = HOST, url, custodial, seed }) {
  if (bootstrap) return { dht: new DHT({ bootstrap: bootstrap.map(parse), host }) }
  const socket = new WebSocket(url)
  const state = { closed: null }
  socket.on('close', (code, reason) => { state.closed = { code, reason: String(reason) } })
  socket.on('error', () => {})
  const stream = new SocketStream(true, socket)
  stream.on('error', () => {})
  const keyPair = DHT.keyPair(seed ? Buffer.alloc(32, seed) : undefined)
  return { dht: new RelayedDHT(stream, { custodial, keyPair }), socket, state, keyPair }
}

function received (socket) {
  return { bytesOut: socket._socket ? socket._socket.bytesWritten : 0, bytesIn: socket._socket ? socket._socket.bytesRead : 0 }
}

async function readAll (core, length) {
  const blocks = []
  for (let i = 0; i < length; i++) blocks.push((await core.get(i)).toString('hex'))
  return blocks
}

const commands = {
  async testnet ({ size }) {
    const testnet = await createTestnet(size, { host: HOST })
    kept.set(nextHandle, { close: () => testnet.destroy() })
    return { handle: nextHandle++, bootstrap: testnet.bootstrap.map((b) => b.host + ':' + b.port) }
  },

  // Writes a core of blocks and serves it to whoever joins the topic.
  async serve (args) {
    const { dht, socket, keyPair } = createNode(args)
    const handle = nextHandle++
    const store = new Corestore(path.join(folder, String(handle)))
    const core = store.get({ name: 'served' })
    await core.ready()
    for (let i = 0; i < args.blocks; i++) await core.append(Buffer.alloc(args.bytes, i + 1))
    const swarm = new Hyperswarm({ dht, keyPair })
    swarm.on('connection', (connection) => {
      connection.on('error', () => {})
      store.replicate(connection)
    })
    const discovery = swarm.join(core.discoveryKey, { server: true, client: false })
    await discovery.flushed()
    kept.set(handle, { swarm, store, dht, socket, close: async () => { await swarm.destroy(); await store.close() } })
    return { handle, key: core.key.toString('hex'), publicKey: swarm.keyPair.publicKey.toString('hex') }
  },

  // Joins a core's topic and reads it.
  async read (args) {
    const { dht, socket, keyPair } = createNode(args)
    const handle = nextHandle++
    const store = new Corestore(path.join(folder, String(handle)))
    const core = store.get(Buffer.from(args.key, 'hex'))
    await core.ready()
    const swarm = new Hyperswarm({ dht, keyPair })
    swarm.on('connection', (connection) => {
      connection.on('error', () => {})
      store.replicate(connection)
    })
    swarm.join(core.discoveryKey, { server: false, client: true })
    const blocks = await readAll(core, args.blocks)
    const counts = socket ? received(socket) : {}
    await swarm.destroy()
    await store.close()
    return { blocks, ...counts }
  },

  // Dials a peer once; says how it went.
  async dial (args) {
    const { dht, state, keyPair } = createNode(args)
    const streams = []
    const outcomes = []
    for (let i = 0; i < (args.count || 1); i++) {
      const stream = dht.connect(Buffer.from(args.publicKey, 'hex'), { keyPair })
      streams.push(stream)
      outcomes.push(new Promise((resolve) => {
        stream.on('open', () => resolve('open'))
        stream.on('error', (err) => resolve(err.message))
        stream.on('close', () => resolve('closed'))
      }))
    }
    const answers = await Promise.all(outcomes)
    await new Promise((resolve) => setTimeout(resolve, 200))
    for (const stream of streams) stream.destroy()
    await dht.destroy({ force: true })
    return { outcomes: answers, closed: state ? state.closed : null }
  },

  // Waits until the WebSocket is closed, by whomever.
  async closed (args) {
    const { dht, state } = createNode(args)
    while (!state.closed) await new Promise((resolve) => setTimeout(resolve, 20))
    await dht.destroy({ force: true }).catch(() => {})
    return state.closed
  },

  async close ({ handle }) {
    const entry = kept.get(handle)
    kept.delete(handle)
    await entry.close()
    return {}
  }
}

process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
takeCommands(commands)
