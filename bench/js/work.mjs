// One measured task in a process of its own: node work.mjs '{"task": NAME, …}'. Prints one JSON line when it is done.
//
// A task that serves others prints {"ready": …} first and goes on until its standard input ends.
import { Measure } from './measure.mjs'
import * as bee from './bee.mjs'
import * as core from './core.mjs'
import * as drive from './drive.mjs'
import * as processor from './processor.mjs'
import * as replication from './replication.mjs'
import * as swarm from './swarm.mjs'

const parts = [bee, core, drive, processor, replication, swarm]
const tasks = Object.assign({}, ...parts.map((part) => part.tasks))

const { task, ...options } = JSON.parse(process.argv[2])
if (!Object.hasOwn(tasks, task)) throw new Error(`no such task: ${task}`)
const measure = new Measure()
await tasks[task](options, measure)
process.stdout.write(JSON.stringify(measure.report()) + '\n', () => process.exit(0))
