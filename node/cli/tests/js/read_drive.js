// Reads a whole drive from a peer on a loopback port, and prints what is in it as one line of JSON.
//
//   node read_drive.js PORT KEY [ENCRYPTION-KEY]      in a directory with the packages
'use strict'

const fs = require('fs')
const os = require('os')
const net = require('net')
const path = require('path')
const { createHash } = require('crypto')
const { createRequire } = require('module')
const packages = createRequire(path.join(process.cwd(), 'package.json'))
const Corestore = packages('corestore')
const Hyperdrive = packages('hyperdrive')
const NoiseSecretStream = packages('@hyperswarm/secret-stream')

async function main ([port, key, encryptionKey]) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'cumulet-read-drive-'))
  const store = new Corestore(directory)
  const socket = net.connect(Number(port), '127.0.0.1')
  const secret = new NoiseSecretStream(true, socket)
  secret.on('error', () => {})
  store.replicate(secret)
  const options = encryptionKey ? { encryptionKey: Buffer.from(encryptionKey, 'hex') } : {}
  const drive = new Hyperdrive(store, Buffer.from(key, 'hex'), options)
  await drive.ready()
  await drive.update({ wait: true })
  const files = {}
  for await (const { key, value } of drive.list('/')) {
    const data = value.blob && (await drive.get(key))
    files[key] = {
      sha256: data && createHash('sha256').update(data).digest('hex'),
      executable: value.executable,
      linkname: value.linkname,
      metadata: value.metadata
    }
  }
  process.stdout.write(JSON.stringify({ version: drive.version, files }) + '\n')
  fs.rmSync(directory, { recursive: true, force: true })
  process.exit(0)
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exit(1)
})
