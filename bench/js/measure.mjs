// What a task reports of itself: time, the process's highest resident memory, and what it had written.
import { readdirSync, readFileSync } from 'node:fs'

function field(path, name) {
  const line = readFileSync(path, 'utf8').split('\n').find((line) => line.startsWith(name + ':'))
  return Number(line.slice(name.length + 1).trim().split(' ')[0])
}

export class Measure {
  constructor() {
    this.written = field('/proc/self/io', 'write_bytes')
    this.extra = {}
  }

  // The process now, before it is given anything to do.
  noteRest() {
    this.extra.rest = field('/proc/self/status', 'VmRSS') * 1024
  }

  // Times `work`, which does `amount` of the row's unit.
  async time(amount, work) {
    const [start, before] = [process.hrtime.bigint(), process.cpuUsage()]
    await work()
    this.seconds = Number(process.hrtime.bigint() - start) / 1e9
    const { user, system } = process.cpuUsage(before)
    this.cpu = (user + system) / 1e6
    this.amount = amount
  }

  countDescriptors() {
    this.extra.descriptors = readdirSync('/proc/self/fd').length
  }

  // To be called when everything is closed.
  report() {
    return {
      amount: this.amount ?? 0,
      seconds: this.seconds ?? 0,
      cpu: this.cpu ?? process.cpuUsage().user / 1e6 + process.cpuUsage().system / 1e6,
      rss: field('/proc/self/status', 'VmHWM') * 1024,
      written: field('/proc/self/io', 'write_bytes') - this.written,
      ...this.extra
    }
  }
}
