// A JavaScript peer under remote control: one JSON command per line on stdin, one JSON answer per line on stdout.
// Everything binds to 127.0.0.1, or to the loopback address in CUMULET_LOOPBACK. The process ends when stdin closes.
const net = require('net')
const SecretStream = require('@hyperswarm/secret-stream')
const DHT = require('hyperdht')
const Hyperswarm = require('hyperswarm')
const createTestnet = require('hyperdht/testnet')
const takeCommands = require('../commands')

const HOST = process.env.CUMULET_LOOPBACK || '127.0.0.1'
// Longer than any lookup takes while some nodes are dead, milliseconds.
const PATIENCE = 30000
const closables = new Map()
let nextHandle = 1

function keep (close, extra = {}) {
  const handle = nextHandle++
  closables.set(handle, { close, ...extra })
  return handle
}

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

// firewalled: true (and stays so), false, or absent for the default node that finds out for itself.
// ephemeral: false stores records for others at once.
function createNode ({ bootstrap, firewalled, port, ephemeral }) {
  const opts = { bootstrap: (bootstrap || []).map(parse), host: HOST }
  if (firewalled !== undefined && firewalled !== null) opts.firewalled = firewalled
  if (firewalled === true) opts.quickFirewall = false
  if (port) opts.port = port
  if (ephemeral === false) opts.ephemeral = false
  return new DHT(opts)
}

function seed (n) {
  return n === undefined || n === null ? undefined : Buffer.alloc(32, n)
}

function echo (socket) {
  socket.on('error', () => {})
  socket.on('data', (data) => socket.write(data))
  socket.on('end', () => socket.end())
}

// Connects once and waits for the echo of one message.
function once (node, publicKey, opts, timeout) {
  return new Promise((resolve) => {
    const start = Date.now()
    const socket = node.connect(publicKey, opts)
    const timer = setTimeout(() => done('no echo in ' + timeout + ' ms'), timeout)
    let settled = false
    function done (error) {
      if (settled) return
      settled = true
      clearTimeout(timer)
      socket.destroy()
      resolve({ error, ms: Date.now() - start })
    }
    socket.on('error', (err) => done(err.code || err.message))
    socket.on('close', () => done('closed'))
    socket.on('open', () => socket.write(Buffer.from('hello')))
    socket.on('data', (data) => done(data.toString() === 'hello' ? null : 'wrong echo'))
  })
}

// Whether it is done in time; it may fail. Otherwise its queries are ended.
async function inTime (work, queries) {
  let timer
  const late = new Promise((resolve) => { timer = setTimeout(resolve, PATIENCE, true) })
  const isLate = await Promise.race([work.then(() => false, () => false), late])
  clearTimeout(timer)
  if (isLate) for (const query of queries) query.destroy()
  return !isLate
}

const commands = {
  // An echo server of secret streams over TCP.
  async tcpListen () {
    const keyPair = DHT.keyPair()
    const server = net.createServer((socket) => {
      const stream = new SecretStream(false, socket, { keyPair })
      stream.on('error', () => {})
      stream.on('data', (data) => stream.write(data))
      stream.on('end', () => stream.end())
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    return { address: '127.0.0.1:' + server.address().port, publicKey: keyPair.publicKey.toString('hex') }
  },

  async tcpConnect ({ port }) {
    const stream = new SecretStream(true, net.connect(port, '127.0.0.1'))
    const heard = await new Promise((resolve, reject) => {
      stream.on('error', reject)
      stream.on('data', (data) => resolve(data.toString()))
      stream.write('hello from JavaScript')
    })
    const remotePublicKey = stream.remotePublicKey.toString('hex')
    stream.destroy()
    return { heard, remotePublicKey }
  },

  async testnet ({ size, port }) {
    const testnet = await createTestnet(size, { host: HOST, port })
    keep(() => testnet.destroy())
    return { bootstrap: testnet.bootstrap.map((b) => b.host + ':' + b.port) }
  },

  async listen (args) {
    const node = createNode(args)
    await node.fullyBootstrapped()
    const stats = { connections: 0, sockets: new Set() }
    const opts = args.local === false ? { shareLocalAddress: false } : {}
    const server = node.createServer(opts, (socket) => {
      stats.connections++
      stats.sockets.add(socket)
      socket.on('close', () => stats.sockets.delete(socket))
      echo(socket)
    })
    const keyPair = args.seed === undefined ? DHT.keyPair() : DHT.keyPair(seed(args.seed))
    await server.listen(keyPair)
    const handle = keep(() => node.destroy(), { stats })
    const address = node.remoteAddress()
    return {
      handle,
      publicKey: keyPair.publicKey.toString('hex'),
      firewalled: node.firewalled,
      remoteAddress: address && address.host + ':' + address.port,
      port: node.io.serverSocket.address().port
    }
  },

  // A node that is in the network already when it is used.
  async node (args) {
    const node = createNode(args)
    if (args.wait === false) await node.io.bind()
    else await node.fullyBootstrapped()
    const port = node.io.serverSocket.address().port
    return { handle: keep((force) => node.destroy({ force }), { node }), port }
  },

  // For so many seconds: announces `topics` with the key pair of `seed` every `announceEvery` ms, and looks up every pair of a
  // topic and a key in `wanted` every `lookUpEvery` ms, without waiting for the lookups before. None of them is waited for longer than PATIENCE.
  async ask ({ node: handle, topics, seed: number, wanted, seconds, announceEvery, lookUpEvery }) {
    const node = closables.get(handle).node
    const keyPair = DHT.keyPair(seed(number))
    const start = Date.now()
    const over = () => Date.now() - start > seconds * 1000
    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
    const result = { asked: 0, failed: [], longest: 0 }

    async function announce () {
      while (!over()) {
        const queries = topics.map((topic) => node.announce(Buffer.from(topic, 'hex'), keyPair, []))
        await inTime(Promise.allSettled(queries.map((query) => query.finished())), queries)
        await pause(announceEvery)
      }
    }

    async function lookUp (topic, key) {
      const begun = Date.now()
      const keys = new Set()
      const query = node.lookup(Buffer.from(topic, 'hex'))
      async function collect () {
        for await (const data of query) {
          for (const peer of data.peers) keys.add(peer.publicKey.toString('hex'))
        }
      }
      const answered = await inTime(collect(), [query])
      result.asked++
      result.longest = Math.max(result.longest, Date.now() - begun)
      if (answered && keys.has(key)) return
      const what = answered ? 'found ' + [...keys] : 'no answer in ' + PATIENCE + ' ms'
      result.failed.push((begun - start) + ' ms: ' + topic + ': ' + what)
    }

    const lookups = []
    const announcing = announce()
    while (!over()) {
      for (const [topic, key] of wanted) lookups.push(lookUp(topic, key))
      await pause(lookUpEvery)
    }
    await Promise.all([announcing, ...lookups])
    return result
  },

  // Announces `topics` once, with the key pair of `seed`.
  async announceAll ({ node, topics, seed: number }) {
    const keyPair = DHT.keyPair(seed(number))
    await Promise.all(topics.map(async (topic) => {
      await closables.get(node).node.announce(Buffer.from(topic, 'hex'), keyPair, []).finished()
    }))
    return { publicKey: keyPair.publicKey.toString('hex') }
  },

  // `node`: the handle of a node for the first connection; closed after the last one with it.
  async connect (args) {
    const { publicKey, count = 1, fresh = false, timeout = 8000 } = args
    const key = Buffer.from(publicKey, 'hex')
    let node = args.node ? closables.get(args.node).node : null
    closables.delete(args.node)
    let ok = 0
    const errors = {}
    const ms = []
    for (let i = 0; i < count; i++) {
      if (node === null || (fresh && i > 0)) {
        if (node) await node.destroy()
        node = createNode(args)
        if (args.bootstrapped !== false) await node.fullyBootstrapped()
      }
      const opts = { keyPair: DHT.keyPair() }
      if (args.local === false) opts.localConnection = false
      if (args.fastOpen === false) opts.fastOpen = false
      if (args.relayAddresses) opts.relayAddresses = args.relayAddresses.map(parse)
      const result = await once(node, key, opts, timeout)
      if (result.error) errors[result.error] = (errors[result.error] || 0) + 1
      else ok++
      ms.push(result.ms)
    }
    const firewalled = node.firewalled
    await node.destroy()
    ms.sort((a, b) => a - b)
    return { ok, errors, firewalled, times: ms, median: ms[ms.length >> 1], max: ms[ms.length - 1] }
  },

  async lookup (args) {
    const node = createNode(args)
    await node.fullyBootstrapped()
    const found = new Set()
    for await (const data of node.lookup(Buffer.from(args.topic, 'hex'))) {
      for (const peer of data.peers) found.add(peer.publicKey.toString('hex'))
    }
    await node.destroy()
    return { peers: [...found] }
  },

  async announce (args) {
    const node = createNode(args)
    await node.fullyBootstrapped()
    const keyPair = DHT.keyPair()
    await node.announce(Buffer.from(args.topic, 'hex'), keyPair, []).finished()
    keep(() => node.destroy())
    return { publicKey: keyPair.publicKey.toString('hex') }
  },

  async put (args) {
    const node = createNode(args)
    await node.fullyBootstrapped()
    const keyPair = DHT.keyPair(seed(args.seed))
    await node.mutablePut(keyPair, Buffer.from(args.mutable), { seq: args.seq })
    const { hash } = await node.immutablePut(Buffer.from(args.immutable))
    await node.destroy()
    return { publicKey: keyPair.publicKey.toString('hex'), hash: hash.toString('hex') }
  },

  async get (args) {
    const node = createNode(args)
    await node.fullyBootstrapped()
    const mutable = await node.mutableGet(Buffer.from(args.publicKey, 'hex'), { latest: true })
    const immutable = await node.immutableGet(Buffer.from(args.hash, 'hex'))
    await node.destroy()
    return {
      mutable: mutable && mutable.value.toString(),
      seq: mutable && mutable.seq,
      immutable: immutable && immutable.value.toString()
    }
  },

  async swarm (args) {
    const node = createNode(args)
    const swarm = new Hyperswarm({ dht: node, seed: seed(args.seed) })
    const stats = { connections: 0, echoes: 0, keys: new Set() }
    swarm.on('connection', (socket) => {
      stats.connections++
      stats.keys.add(socket.remotePublicKey.toString('hex'))
      socket.on('error', () => {})
      let sent = false
      socket.on('data', (data) => {
        if (data.toString() === 'hello from js') stats.echoes++
        else socket.write(data)
      })
      if (!sent) socket.write(Buffer.from('hello from js'))
      sent = true
    })
    const discovery = swarm.join(Buffer.from(args.topic, 'hex'), { server: args.server, client: args.client })
    await discovery.flushed()
    if (args.flush) await swarm.flush()
    const handle = keep(() => swarm.destroy(), { stats, swarm })
    return { handle, publicKey: swarm.keyPair.publicKey.toString('hex') }
  },

  async join_peer ({ handle, publicKey }) {
    closables.get(handle).swarm.joinPeer(Buffer.from(publicKey, 'hex'))
    return {}
  },

  async stats ({ handle }) {
    const { stats, swarm } = closables.get(handle)
    return {
      connections: stats.connections,
      open: swarm ? swarm.connections.size : stats.sockets.size,
      echoes: stats.echoes,
      keys: stats.keys ? [...stats.keys] : undefined,
      swarm: swarm && {
        connects: swarm.stats.connects,
        attempts: [...swarm.peers.values()].map((peer) => peer.attempts),
        firewalled: swarm.dht.firewalled,
        nodes: swarm.dht.nodes.length
      }
    }
  },

  // With `force` without goodbyes.
  async close ({ handle, force }) {
    const entry = closables.get(handle)
    closables.delete(handle)
    await entry.close(force)
    return {}
  }
}

takeCommands(commands)
