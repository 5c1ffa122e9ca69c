// Package crypt has the keys of encrypted stores: what they seal and open, and the slots that keep a store's key under
// a passphrase or a key file.
package crypt
