// A secret stream of JavaScript's in WebSockets: what a Cumulet swarm and its clients speak under their subprotocol.
// One JSON command a line on stdin, one JSON answer a line on stdout.
const readline = require('readline')
const { Duplex } = require('stream')
const SecretStream = require('@hyperswarm/secret-stream')
const { WebSocket, WebSocketServer } = require('ws')

const SUBPROTOCOL = 'v1.secret-stream.cumulet.io'
// Longest message that the other side takes.
const MAX_MESSAGE = 64 * 1024

// The bytes of a WebSocket's binary messages.
class Bytes extends Duplex {
  constructor (socket) {
    super()
    this.socket = socket
    socket.on('message', (data) => { if (!this.push(data)) socket.pause() })
    socket.on('close', () => this.push(null))
    socket.on('error', (error) => this.destroy(error))
  }

  _read () { if (this.socket.readyState === WebSocket.OPEN) this.socket.resume() }

  _write (data, _, done) {
    for (let at = 0; at < data.length; at += MAX_MESSAGE) {
      const last = at + MAX_MESSAGE >= data.length
      this.socket.send(data.subarray(at, at + MAX_MESSAGE), last ? done : undefined)
    }
  }

  _final (done) {
    this.socket.close()
    done()
  }

  _destroy (error, done) {
    this.socket.terminate()
    done(error)
  }
}

async function opened (url) {
  const socket = new WebSocket(url, SUBPROTOCOL)
  socket.binaryType = 'nodebuffer'
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  return socket
}

// Messages of these lengths: beside small ones some that no WebSocket message of theirs holds.
const LENGTHS = [0, 1, 1000, MAX_MESSAGE - 17, MAX_MESSAGE, 200000, 5]

function messages () {
  return LENGTHS.map((length, i) => Buffer.alloc(length, i + 1))
}

const commands = {
  // Says everything to a host, and hears it back.
  async connect ({ url }) {
    const socket = await opened(url)
    const stream = new SecretStream(true, new Bytes(socket))
    const said = messages().filter((message) => message.length > 0)
    const heard = []
    await new Promise((resolve, reject) => {
      stream.on('error', reject)
      stream.on('close', () => reject(new Error('closed early')))
      stream.on('data', (data) => { if (heard.push(data) === said.length) resolve() })
      for (const message of said) stream.write(message)
    })
    const same = Buffer.concat(said).equals(Buffer.concat(heard)) && said.every((message, i) => message.equals(heard[i]))
    const answer = {
      same,
      subprotocol: socket.protocol,
      publicKey: stream.publicKey.toString('hex'),
      remotePublicKey: stream.remotePublicKey.toString('hex'),
      handshakeHash: stream.handshakeHash.toString('hex')
    }
    const closed = new Promise((resolve) => socket.once('close', resolve))
    stream.removeAllListeners('close')
    stream.end()
    await closed
    return answer
  },

  // Echoes to whoever comes.
  async listen () {
    const keyPair = SecretStream.keyPair()
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0, handleProtocols: (asked) => asked.has(SUBPROTOCOL) && SUBPROTOCOL })
    server.on('connection', (socket) => {
      const stream = new SecretStream(false, new Bytes(socket), { keyPair })
      stream.on('error', () => {})
      stream.on('data', (data) => stream.write(data))
      stream.on('end', () => stream.end())
    })
    await new Promise((resolve) => server.once('listening', resolve))
    return { port: server.address().port, publicKey: keyPair.publicKey.toString('hex') }
  }
}

readline.createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const { id, cmd, ...args } = JSON.parse(line)
    let answer
    try {
      answer = await commands[cmd](args)
    } catch (error) {
      answer = { error: error.stack }
    }
    process.stdout.write(JSON.stringify({ id, ...answer }) + '\n')
  })
  .on('close', () => process.exit(0))
