// The loop of every script under remote control: one JSON command per line on stdin, { id, cmd, … }; one JSON answer per line on
// stdout, { id, … }, or { id, error }, in the order in which they are done. The process ends when stdin closes.
//
//   require('../commands')({ async double ({ value }) { return { value: 2 * value } } })
//
// It needs Node.js alone, so that the scripts of all folders beside it find it without a package of its own.
const readline = require('readline')

// `commands`: by name, what a command does. `end`: what is to be done before the process ends.
module.exports = function takeCommands (commands, end = async () => {}) {
  // What a peer does on its own account may fail: the test sees what came of it.
  process.on('uncaughtException', (err) => {
    process.stderr.write('uncaught: ' + err.stack + '\n')
  })

  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', async (line) => {
    const request = JSON.parse(line)
    let answer
    try {
      answer = await commands[request.cmd](request)
    } catch (err) {
      answer = { error: err.stack || String(err) }
    }
    process.stdout.write(JSON.stringify({ id: request.id, ...answer }) + '\n')
  })
  lines.on('close', async () => {
    await end()
    process.exit(0)
  })
}
