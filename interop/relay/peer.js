// A JavaScript blind relay, server or client under remote control: one JSON command per line on stdin, one JSON answer per
// line on stdout. Everything binds to 127.0.0.1, or to the host that a command names. The process ends when stdin closes.
const DHT = require('hyperdht')
const blind = require('blind-relay')
const Holepuncher = require('hyperdht/lib/holepuncher')
const createTestnet = require('hyperdht/testnet')
const takeCommands = require('../commands')

const HOST = '127.0.0.1'
// As over a long way, where a relay is faster than a punch, milliseconds.
const LONG_WAY = 1500
const kept = new Map()
let nextHandle = 1

function keep (entry) {
  const handle = nextHandle++
  kept.set(handle, entry)
  return handle
}

function parse (address) {
  const [host, port] = address.split(':')
  return { host, port: Number(port) }
}

function createNode ({ bootstrap, firewalled, host = HOST, seed }) {
  const opts = { bootstrap: bootstrap.map(parse), host, firewalled, keyPair: seed && DHT.keyPair(key(seed)) }
  if (firewalled) opts.quickFirewall = false
  return new DHT(opts)
}

function key (hex) {
  return hex ? Buffer.from(hex, 'hex') : null
}

// A server's fresh socket answers the first probe at once, which on loopback always arrives.
function makePunchesLate () {
  const answer = Holepuncher.prototype._onholepunchmessage
  Holepuncher.prototype._onholepunchmessage = function (...message) {
    setTimeout(() => {
      if (!this.destroyed) answer.apply(this, message)
    }, LONG_WAY)
  }
}

function received (node) {
  return Number(node.io.serverSocket.bytesReceived) + Number(node.io.clientSocket.bytesReceived)
}

// Sends a payload once, waits until as many bytes have come back and compares them.
function once (node, publicKey, opts, payload, hold) {
  return new Promise((resolve) => {
    const socket = node.connect(publicKey, opts)
    const timer = setTimeout(() => done('no echo'), 25000)
    const chunks = []
    let length = 0
    let settled = false
    function done (error) {
      if (settled) return
      settled = true
      clearTimeout(timer)
      socket.destroy()
      resolve(error)
    }
    socket.on('error', (err) => done(err.code || err.message))
    socket.on('close', () => done('closed'))
    socket.on('open', () => socket.write(payload))
    socket.on('data', (data) => {
      chunks.push(data)
      length += data.length
      if (length < payload.length) return
      const error = Buffer.concat(chunks).equals(payload) ? null : 'wrong echo'
      setTimeout(() => done(error), hold)
    })
  })
}

const commands = {
  async testnet ({ size }) {
    const testnet = await createTestnet(size, { host: HOST })
    keep({ close: () => testnet.destroy() })
    return { bootstrap: testnet.bootstrap.map((b) => b.host + ':' + b.port) }
  },

  // A blind relay on a node that everybody can reach.
  async relay (args) {
    const node = createNode({ bootstrap: args.bootstrap, firewalled: false })
    await node.fullyBootstrapped()
    const relay = new blind.Server({
      createStream: (opts) => node.createRawStream({ ...opts, framed: true })
    })
    const server = node.createServer((socket) => {
      socket.on('error', () => {})
      const session = relay.accept(socket, { id: socket.remotePublicKey })
      session.on('error', () => {})
    })
    await server.listen()
    const handle = keep({
      close: () => node.destroy(),
      stats: () => ({ ...relay.stats.pairings, received: received(node) })
    })
    return { handle, publicKey: server.publicKey.toString('hex') }
  },

  // As whom a node with this seed uses relays.
  async identity ({ seed }) {
    return { publicKey: DHT.keyPair(key(seed)).publicKey.toString('hex') }
  },

  // An echo server. Firewalled, so that clients need a hole or a relay.
  async listen (args) {
    const node = createNode({ ...args, firewalled: true })
    await node.fullyBootstrapped()
    const opts = { shareLocalAddress: false, relayThrough: key(args.relay) }
    if (args.blocked) opts.holepunch = false
    const server = node.createServer(opts, (socket) => {
      socket.on('error', () => {})
      socket.on('data', (data) => socket.write(data))
      socket.on('end', () => socket.end())
    })
    if (args.late) {
      const answer = server._onpeerholepunch.bind(server)
      server._onpeerholepunch = async (...message) => {
        await new Promise((resolve) => setTimeout(resolve, LONG_WAY))
        return answer(...message)
      }
      makePunchesLate()
    }
    await server.listen()
    const handle = keep({ close: () => node.destroy(), stats: () => ({ ...node.stats.relaying, received: received(node) }) })
    return { handle, publicKey: server.publicKey.toString('hex') }
  },

  async connect (args) {
    const node = createNode({ ...args, firewalled: true })
    await node.fullyBootstrapped()
    const payload = Buffer.alloc(args.bytes, args.text)
    const errors = {}
    let ok = 0
    for (let i = 0; i < args.count; i++) {
      const opts = { keyPair: DHT.keyPair(), localConnection: false, relayThrough: key(args.relay) }
      if (args.late) opts.fastOpen = false
      const error = await once(node, key(args.publicKey), opts, payload, args.hold || 0)
      if (error) errors[error] = (errors[error] || 0) + 1
      else ok++
    }
    await node.destroy()
    return { ok, errors }
  },

  async stats ({ handle }) {
    return kept.get(handle).stats()
  },

  async close ({ handle }) {
    const entry = kept.get(handle)
    kept.delete(handle)
    await entry.close()
    return {}
  }
}

takeCommands(commands)
