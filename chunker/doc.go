// Package chunker cuts byte streams into fixed-size chunks: it takes them from capture and gives them, hashed, to whoever stores them.
//
// Start with [Split], which reads a [Source] on all cores and delivers its chunks in order, and [Sum], which names one chunk.
// A chunk that is all zero is a hole: its [ID] is the zero ID, and its bytes are never delivered.
package chunker
