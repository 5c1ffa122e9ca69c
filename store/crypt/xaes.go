package crypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

const (
	nonceSize = 24
	tagSize   = 16

	// Overhead is how many bytes longer a sealed text is than the text.
	Overhead = nonceSize + tagSize
)

// ErrTampered is the error of opening what was not sealed with this key, for this purpose and context, or not quite so.
var ErrTampered = errors.New("it was not sealed with the store's key")

// Sealer encrypts and authenticates texts for one purpose. Each has a random nonce of 192 bits, so any number of
// texts may be sealed with one key. The nil *Sealer is that of a store without encryption: it leaves texts as they are.
// It is safe for concurrent use.
//
// The cipher is XAES-256-GCM as C2SP specifies it (https://c2sp.org/XAES-256-GCM): AES-256-GCM under a key that is
// derived from the first half of the nonce.
type Sealer struct {
	block  cipher.Block // with the key itself
	subkey [aes.BlockSize]byte
}

func newSealer(key [32]byte) *Sealer {
	block, _ := aes.NewCipher(key[:]) // fails only for a key of another length
	s := &Sealer{block: block}
	// The first subkey of CMAC (NIST SP 800-38B).
	block.Encrypt(s.subkey[:], s.subkey[:])
	carry := s.subkey[0] >> 7
	for i := range s.subkey {
		s.subkey[i] <<= 1
		if i+1 < len(s.subkey) {
			s.subkey[i] |= s.subkey[i+1] >> 7
		}
	}
	s.subkey[len(s.subkey)-1] ^= carry * 0x87
	return s
}

// Overhead returns how many bytes longer than the text Seal's result is.
func (s *Sealer) Overhead() int {
	if s == nil {
		return 0
	}
	return Overhead
}

// Seal appends the sealed text to dst. Whoever opens it must know context. dst and text must not overlap.
func (s *Sealer) Seal(dst, text []byte, context string) []byte {
	if s == nil {
		return append(dst, text...)
	}
	var nonce [nonceSize]byte
	rand.Read(nonce[:])
	return s.seal(dst, nonce[:], text, context)
}

func (s *Sealer) seal(dst, nonce, text []byte, context string) []byte {
	dst = append(dst, nonce...)
	return s.gcm(nonce).Seal(dst, nonce[nonceSize/2:], text, []byte(context))
}

// Open appends to dst the text that was sealed: ErrTampered. The nil *Sealer returns sealed itself.
func (s *Sealer) Open(dst, sealed []byte, context string) ([]byte, error) {
	if s == nil {
		return sealed, nil
	}
	if len(sealed) < Overhead {
		return nil, fmt.Errorf("%w: it is too short", ErrTampered)
	}
	nonce := sealed[:nonceSize]
	text, err := s.gcm(nonce).Open(dst, nonce[nonceSize/2:], sealed[nonceSize:], []byte(context))
	if err != nil {
		return nil, ErrTampered
	}
	return text, nil
}

// gcm returns AES-256-GCM with the key for a nonce.
func (s *Sealer) gcm(nonce []byte) cipher.AEAD {
	var key [2 * aes.BlockSize]byte
	for half := range 2 {
		b := key[half*aes.BlockSize:][:aes.BlockSize]
		b[1], b[2] = byte(half+1), 'X'
		copy(b[4:], nonce[:nonceSize/2])
		for i := range b {
			b[i] ^= s.subkey[i]
		}
		s.block.Encrypt(b, b)
	}
	block, _ := aes.NewCipher(key[:]) // fails only for a key of another length
	aead, _ := cipher.NewGCM(block)   // fails only for blocks of another length
	return aead
}
