package main

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log"
	"os"
	"strings"
)

// What a hostile joiner, who keeps to no rule of ours, needs of PROTOCOL: a ticket's keys, and the proof of a key of its own.

var urlSafe, std = base64.RawURLEncoding, base64.StdEncoding

func derive(salt string, material []byte, context ...[]byte) []byte {
	var info []byte
	for _, part := range context {
		info = append(info, part...)
	}
	out, err := hkdf.Key(sha256.New, material, []byte(salt), string(info), 32)
	if err != nil {
		log.Fatal(err)
	}
	return out
}

// keys are those of a secret towards an inviter: for WireGuard's file, for `enrol`, and the bearer it shows.
func keys(secret, inviter []byte) map[string]string {
	own, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		log.Fatal(err)
	}
	their, err := ecdh.X25519().NewPublicKey(inviter)
	if err != nil {
		log.Fatal(err)
	}
	shared, err := own.ECDH(their)
	if err != nil {
		log.Fatal(err)
	}
	public := own.PublicKey().Bytes()
	return map[string]string{"secret": std.EncodeToString(secret), "public": std.EncodeToString(public), "key": urlSafe.EncodeToString(public),
		"inviter": std.EncodeToString(inviter), "bearer": hex.EncodeToString(derive("sluice control v1", shared, public, inviter))}
}

func show(it map[string]string) { json.NewEncoder(os.Stdout).Encode(it) }

// ticket prints what a ticket yields; `flip` is a bit of its secret that is turned over first.
func ticket(line string, flip int) {
	b, err := urlSafe.DecodeString(strings.TrimPrefix(line, "sluice1:"))
	if err != nil || len(b) < 58 {
		log.Fatal("no ticket")
	}
	if flip >= 0 {
		b[33+flip/8%16] ^= 1 << (flip % 8)
	}
	inviter, secret := b[1:33], b[33:49]
	own := derive("sluice ticket v1", secret, []byte("enrolment key"), inviter)
	own[0], own[31] = own[0]&248, own[31]&127|64
	it := keys(own, inviter)
	it["preshared"] = std.EncodeToString(derive("sluice ticket v1", secret, []byte("preshared key"), inviter))
	// the same line with its checksum put right
	sum := sha256.Sum256(b[:len(b)-4])
	it["line"] = "sluice1:" + urlSafe.EncodeToString(append(b[:len(b)-4:len(b)-4], sum[:4]...))
	show(it)
}

// newKey prints a new key, or the given one (base64url), towards an inviter, given in base64.
func newKey(inviter, secret string) {
	their, err := std.DecodeString(inviter)
	if err != nil {
		log.Fatal("not a key: ", err)
	}
	own := make([]byte, 32)
	rand.Read(own)
	if secret != "" {
		if own, err = urlSafe.DecodeString(secret); err != nil || len(own) != 32 {
			log.Fatal("not a secret key of 32 bytes")
		}
	}
	own[0], own[31] = own[0]&248, own[31]&127|64
	show(keys(own, their))
}
