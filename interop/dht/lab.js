// A JavaScript DHT peer in a network namespace, under remote control: one JSON command per line on stdin, one JSON answer per
// line on stdout, in any order. Every command has a DHT node of its own; with a topic it has a swarm, and the two meet under that.
// The process ends when stdin closes.
const DHT = require('hyperdht')
const Hyperswarm = require('hyperswarm')
const takeCommands = require('../commands')

const nodes = new Map()
let nextHandle = 1

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

function key (hex) {
  return hex ? Buffer.from(hex, 'hex') : null
}

async function createNode ({ bootstrap }) {
  const node = new DHT({ bootstrap: bootstrap.map(parse) })
  await node.fullyBootstrapped()
  return node
}

function echo (socket) {
  socket.on('error', () => {})
  socket.on('data', (data) => socket.write(data))
  socket.on('end', () => socket.end())
}

function createSwarm (dht, { relay }) {
  return new Hyperswarm({ dht, relayThrough: key(relay) })
}

// Connects and waits for the echo of one message.
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
      const from = socket.rawStream && socket.rawStream.remoteHost
      socket.destroy()
      resolve({ failed: error, ms: Date.now() - start, from })
    }
    socket.on('error', (err) => done(err.code || err.message))
    socket.on('close', () => done('closed'))
    socket.on('open', () => socket.write(Buffer.from('hello')))
    socket.on('data', (data) => done(data.toString() === 'hello' ? null : 'wrong echo'))
  })
}

// Looks for the server under a topic, and waits for the echo of one message.
function meet (swarm, topic, publicKey, timeout) {
  return new Promise((resolve) => {
    const start = Date.now()
    const timer = setTimeout(() => done('no echo in ' + timeout + ' ms'), timeout)
    function done (error, from) {
      clearTimeout(timer)
      resolve({ failed: error, ms: Date.now() - start, from })
    }
    swarm.on('connection', (socket) => {
      // The swarm dials again.
      socket.on('error', () => {})
      if (!socket.remotePublicKey.equals(publicKey)) return
      socket.on('data', (data) => done(data.toString() === 'hello' ? null : 'wrong echo', socket.rawStream.remoteHost))
      socket.write(Buffer.from('hello'))
    })
    swarm.join(topic, { server: false, client: true })
  })
}

const commands = {
  async listen (args) {
    const node = await createNode(args)
    const handle = nextHandle++
    if (args.topic) {
      const swarm = createSwarm(node, args)
      swarm.on('connection', echo)
      await swarm.join(key(args.topic), { server: true, client: false }).flushed()
      nodes.set(handle, swarm)
      return { handle, publicKey: swarm.keyPair.publicKey.toString('hex'), firewalled: node.firewalled }
    }
    const server = node.createServer({ relayThrough: key(args.relay) }, echo)
    await server.listen()
    nodes.set(handle, node)
    return { handle, publicKey: server.publicKey.toString('hex'), firewalled: node.firewalled }
  },

  async connect (args) {
    const node = await createNode(args)
    if (args.topic) {
      const swarm = createSwarm(node, args)
      const result = await meet(swarm, key(args.topic), key(args.publicKey), args.timeout)
      await swarm.destroy()
      return result
    }
    const opts = { keyPair: DHT.keyPair(), relayThrough: key(args.relay) }
    const result = await once(node, key(args.publicKey), opts, args.timeout)
    const firewalled = node.firewalled
    await node.destroy()
    return { ...result, firewalled }
  },

  async close ({ handle }) {
    const node = nodes.get(handle)
    nodes.delete(handle)
    await node.destroy()
    return {}
  }
}

takeCommands(commands)
