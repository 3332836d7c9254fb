package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/bits"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// call speaks one HTTP request of any method and prints the status; it fails when nobody answers.
func call(method, host, port, path, bearer string) {
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(host, port), 2*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if bearer != "" {
		bearer = "Authorization: Bearer " + bearer + "\r\n"
	}
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: 2\r\n\r\n{}", method, path, bearer)
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		log.Fatal(err)
	}
	status, _, _ := strings.Cut(string(b[:n]), "\r\n")
	fmt.Println(strings.TrimPrefix(status, "HTTP/1.1 "))
}

// hold opens so many connections, says nothing on them, and reports how many were still open at the end.
func hold(host, port string, n int, life time.Duration) {
	var open []net.Conn
	for i := 0; i < n; i++ {
		if c, err := net.DialTimeout("tcp4", net.JoinHostPort(host, port), 2*time.Second); err == nil {
			open = append(open, c)
		}
	}
	end, alive := time.Now().Add(life), 0
	for _, c := range open {
		c.SetReadDeadline(end)
		if _, err := c.Read(make([]byte, 1)); err != nil && !isEnd(err) {
			alive++
		}
	}
	fmt.Println(len(open), "connected,", alive, "still open")
}

func isEnd(err error) bool { n, is := err.(net.Error); return err == io.EOF || !is || !n.Timeout() }

// packet is an IPv4 packet with right checksums, from whom we like.
func packet(from, to net.IP, protocol byte, body []byte) []byte {
	p := make([]byte, 20, 20+len(body))
	p[0], p[8], p[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(body)))
	copy(p[12:], from.To4())
	copy(p[16:], to.To4())
	if protocol != syscall.IPPROTO_ICMP {
		place := map[byte]int{syscall.IPPROTO_UDP: 6, syscall.IPPROTO_TCP: 16}[protocol]
		pseudo := append(append([]byte{}, p[12:20]...), 0, protocol, byte(len(body)>>8), byte(len(body)))
		binary.BigEndian.PutUint16(body[place:], sum(append(pseudo, body...)))
	}
	binary.BigEndian.PutUint16(p[10:], sum(p))
	return append(p, body...)
}

func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func udp(from, to uint16, text []byte) []byte {
	b := make([]byte, 8, 8+len(text))
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(text)))
	return append(b, text...)
}

func tcp(from, to uint16) []byte { // a SYN
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	rand.Read(b[4:8])
	b[12], b[13], b[14] = 5<<4, 2, 16
	return b
}

func rawSocket() int {
	s, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_RAW)
	if err != nil {
		log.Fatal("raw socket: ", err)
	}
	syscall.SetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1)
	return s
}

func address(text string) net.IP {
	a := net.ParseIP(text).To4()
	if a == nil {
		log.Fatalf("not an IPv4 address: %q", text)
	}
	return a
}

func emit(s int, to net.IP, p []byte) error {
	at := &syscall.SockaddrInet4{}
	copy(at.Addr[:], to)
	for i := 0; ; i++ {
		err := syscall.Sendto(s, p, 0, at)
		if err != syscall.ENOBUFS && err != syscall.EAGAIN || i > 1000 {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// forge sends packets from an address that is not ours.
func forge(from, to, protocol, port string, n int) {
	s, source, target, p := rawSocket(), address(from), address(to), uint16(number(port))
	for i := 0; i < n; i++ {
		body, kind := udp(uint16(40000+i), p, []byte("forged")), byte(syscall.IPPROTO_UDP)
		switch protocol {
		case "tcp":
			body, kind = tcp(uint16(40000+i), p), syscall.IPPROTO_TCP
		case "cut": // a SYN that ends within its options, behind a segment size at an odd place
			body, kind = append(tcp(uint16(40000+i), p), 1, 2, 4, 5, 180), syscall.IPPROTO_TCP
			body[12] = 7 << 4
		case "icmp":
			body, kind = []byte{8, 0, 0, 0, 0, 7, 0, 1}, syscall.IPPROTO_ICMP
			binary.BigEndian.PutUint16(body[2:], sum(body))
		}
		whole := packet(source, target, kind, body)
		if protocol == "rest" { // the last fragment of a TCP packet, shorter than a TCP header
			whole = append(whole[:20], make([]byte, i%14)...)
			whole[3], whole[7], whole[9] = byte(len(whole)), 1, syscall.IPPROTO_TCP
		}
		if err := emit(s, target, whole); err != nil {
			log.Fatal("send: ", err)
		}
	}
	fmt.Println(n, "sent from", from)
}

// scan asks every port of a range, from our own address, and prints those that answer: tcp with a SYN, udp with a few bytes.
func scan(protocol, host, from, to string) {
	first, last, target := int(number(from)), int(number(to)), address(host)
	c, err := net.Dial("udp4", net.JoinHostPort(host, "9"))
	if err != nil {
		log.Fatal(err)
	}
	own := c.LocalAddr().(*net.UDPAddr).IP
	c.Close()
	kind := byte(syscall.IPPROTO_TCP)
	if protocol == "udp" {
		kind = syscall.IPPROTO_UDP
	}
	listen, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, int(kind))
	if err != nil {
		log.Fatal("raw socket: ", err)
	}
	syscall.SetsockoptInt(listen, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<20)
	const mine = 61613
	open, refused := map[int]bool{}, 0
	done := make(chan bool)
	end := time.Now().Add(time.Hour)
	syscall.SetsockoptTimeval(listen, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Usec: 100000})
	go func() {
		for b := make([]byte, 65536); time.Now().Before(end); {
			n, _, err := syscall.Recvfrom(listen, b, 0)
			if err != nil || n < 40 && kind == syscall.IPPROTO_TCP || n < 28 || !net.IP(b[12:16]).Equal(target) || binary.BigEndian.Uint16(b[22:]) != mine {
				continue
			}
			if kind == syscall.IPPROTO_TCP && b[33]&4 != 0 {
				refused++
			} else {
				open[int(binary.BigEndian.Uint16(b[20:]))] = true
			}
		}
		done <- true
	}()
	s := rawSocket()
	for p := first; p <= last; p++ {
		body := tcp(mine, uint16(p))
		if kind == syscall.IPPROTO_UDP {
			body = udp(mine, uint16(p), []byte("question"))
		}
		if err := emit(s, target, packet(own, target, kind, body)); err != nil {
			log.Fatal("send: ", err)
		}
		if p%64 == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	end = time.Now().Add(time.Second)
	<-done
	var found []string
	for p := first; p <= last; p++ {
		if open[p] {
			found = append(found, strconv.Itoa(p))
		}
	}
	fmt.Printf("%d asked, %d refused, answering: %s\n", last-first+1, refused, strings.Join(found, " "))
}

// flood sends handshake initiations made for a public key by nobody, so many a second; from an address that is not ours if one is given.
// It prints how many it sent and how many bytes came back.
func flood(host, port, key, from string, rate int, life time.Duration) {
	public, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(public) != 32 {
		log.Fatal("not a key of 32 bytes in base64")
	}
	label := blake2s(nil, append([]byte("mac1----"), public...), 32)
	var pool [512][]byte
	for i := range pool {
		m := make([]byte, 148)
		rand.Read(m[4:116])
		m[0] = 1
		copy(m[116:], blake2s(label, m[:116], 16))
		pool[i] = m
	}
	target, to := address(host), uint16(number(port))
	var conns []net.Conn
	answers, bytes := 0, 0
	raw := -1
	if from != "" {
		raw = rawSocket()
		source := address(from)
		for i := range pool {
			pool[i] = packet(source, target, syscall.IPPROTO_UDP, udp(uint16(20000+i), to, pool[i]))
		}
	} else {
		for i := 0; i < 16; i++ {
			c, err := net.Dial("udp4", net.JoinHostPort(host, port))
			if err != nil {
				log.Fatal(err)
			}
			conns = append(conns, c)
			go func() {
				for b := make([]byte, 2048); ; {
					n, err := c.Read(b)
					if err == nil {
						answers, bytes = answers+1, bytes+n
					} else if e, is := err.(*net.OpError); is && e.Err == net.ErrClosed {
						return
					}
				}
			}()
		}
	}
	start, sent := time.Now(), 0
	for time.Since(start) < life {
		due := int(time.Since(start).Seconds() * float64(rate))
		for ; sent < due; sent++ {
			m := pool[sent%len(pool)]
			if raw >= 0 {
				emit(raw, target, m)
			} else {
				conns[sent%len(conns)].Write(m)
			}
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	fmt.Printf("%d sent, %.0f a second, %d bytes; %d answers, %d bytes\n", sent, float64(sent)/time.Since(start).Seconds(), sent*148, answers, bytes)
}

// replay sends again what tcpdump has captured (-w, pcap): the payloads of UDP datagrams to a port, from our own address.
func replay(file []byte, host, port string) {
	c, err := net.Dial("udp4", net.JoinHostPort(host, port))
	if err != nil {
		log.Fatal(err)
	}
	want, sent, answers := uint16(number(port)), 0, 0
	go func() {
		for b := make([]byte, 2048); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
			answers++
		}
	}()
	if len(file) < 24 {
		log.Fatal("no pcap file")
	}
	for at := 24; at+16 <= len(file); {
		n := int(binary.LittleEndian.Uint32(file[at+8:]))
		frame := file[at+16 : min(at+16+n, len(file))]
		at += 16 + n
		if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != syscall.IPPROTO_UDP || binary.BigEndian.Uint16(frame[36:]) != want {
			continue
		}
		c.Write(frame[42:])
		sent++
		time.Sleep(500 * time.Microsecond)
	}
	time.Sleep(500 * time.Millisecond)
	fmt.Printf("%d replayed, %d answers\n", sent, answers)
}

// blake2s of RFC 7693, with or without a key.
func blake2s(key, text []byte, size int) []byte {
	iv := [8]uint32{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}
	order := [10]string{"0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
		"2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0"}
	h := iv
	h[0] ^= 0x01010000 ^ uint32(len(key))<<8 ^ uint32(size)
	if len(key) > 0 {
		text = append(append(append([]byte{}, key...), make([]byte, 64-len(key))...), text...)
	}
	for at := 0; ; at += 64 {
		var block [64]byte
		last := at+64 >= len(text)
		copy(block[:], text[at:])
		done := uint32(min(at+64, len(text)))
		var m [16]uint32
		for i := range m {
			m[i] = binary.LittleEndian.Uint32(block[i*4:])
		}
		var v [16]uint32
		copy(v[:8], h[:])
		copy(v[8:], iv[:])
		v[12] ^= done
		if last {
			v[14] = ^v[14]
		}
		for _, row := range order {
			at := func(i int) uint32 { n, _ := strconv.ParseUint(row[i:i+1], 16, 8); return m[n] }
			for i, q := range [8][4]int{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}, {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14}} {
				a, b, c, d := &v[q[0]], &v[q[1]], &v[q[2]], &v[q[3]]
				*a += *b + at(2*i)
				*d = bits.RotateLeft32(*d^*a, -16)
				*c += *d
				*b = bits.RotateLeft32(*b^*c, -12)
				*a += *b + at(2*i+1)
				*d = bits.RotateLeft32(*d^*a, -8)
				*c += *d
				*b = bits.RotateLeft32(*b^*c, -7)
			}
		}
		for i := range h {
			h[i] ^= v[i] ^ v[i+8]
		}
		if last {
			break
		}
	}
	var out []byte
	for _, w := range h {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return out[:size]
}
