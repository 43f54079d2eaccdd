// What the packages expect to find in a page and a browser does not have.
import { Buffer } from 'buffer'
import process from 'process'

window.Buffer = Buffer
window.process = process
window.global = window
