// Chromium without a screen, with a page of its own: one JSON command per line on stdin, one JSON answer per line on stdout. The
// process, and the browser with it, ends when stdin closes. `CUMULET_CHROMIUM` names the program.
const http = require('http')
const path = require('path')
const esbuild = require('esbuild')
const crypto = require('hypercore-crypto')
const puppeteer = require('puppeteer-core')
const takeCommands = require('../commands')

const HOST = '127.0.0.1'
const HTML = '<!doctype html><meta charset="utf-8"><title>cumulet</title><script src="/page.js"></script>'

// The page's program: npm packages, bundled for browsers.
async function bundle () {
  const result = await esbuild.build({
    entryPoints: [path.join(__dirname, 'chromium', 'page.js')],
    inject: [path.join(__dirname, 'chromium', 'globals.js')],
    bundle: true,
    platform: 'browser',
    target: 'chrome100',
    write: false,
    logLevel: 'error'
  })
  return result.outputFiles[0].text
}

async function serve (program) {
  const server = http.createServer((request, response) => {
    const [type, body] = request.url === '/page.js' ? ['text/javascript', program] : ['text/html', HTML]
    response.writeHead(200, { 'content-type': type }).end(body)
  })
  await new Promise((resolve) => server.listen(0, HOST, resolve))
  return 'http://' + HOST + ':' + server.address().port + '/'
}

let opened = null

// The page, in a browser that is started once.
function open () {
  if (!opened) opened = start()
  return opened
}

async function start () {
  const address = await serve(await bundle())
  const browser = await puppeteer.launch({
    executablePath: process.env.CUMULET_CHROMIUM,
    // It ends with this process, however that ends.
    pipe: true,
    // Containers have neither the kernel's user namespaces for the sandbox nor a large /dev/shm. The only page is ours.
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', '--disable-background-networking']
  })
  const page = await browser.newPage()
  page.on('console', (message) => process.stderr.write('page: ' + message.text() + '\n'))
  page.on('pageerror', (err) => process.stderr.write('page: ' + ((err && err.stack) || err) + '\n'))
  await page.goto(address)
  return { page, browser }
}

const commands = {
  // The public key by which a page with this seed is known.
  async identity ({ seed }) {
    return { publicKey: crypto.keyPair(Buffer.from(seed, 'hex')).publicKey.toString('hex') }
  },

  // Holds a DHT open in the page.
  async hold (args) {
    const { page } = await open()
    return page.evaluate((args) => window.hold(args), args)
  },

  // Waits until it ends.
  async ended (args) {
    const { page } = await open()
    return page.evaluate((args) => window.ended(args), args)
  },

  // Reads a core in the page.
  async read (args) {
    const { page, browser } = await open()
    return { browser: await browser.version(), ...await page.evaluate((args) => window.readCore(args), args) }
  }
}

takeCommands(commands, async () => {
  if (opened) await opened.then(({ browser }) => browser.close()).catch(() => {})
})
