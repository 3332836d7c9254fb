package main

import (
	"log"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

const (
	queued   = 4096 // frames under way in one direction; a full queue drops, as a router's does
	allTypes = 0x0003
	outgoing = 4 // sockaddr_ll's packet type of a frame that we sent ourselves
)

type late struct {
	due   time.Time
	frame []byte
}

// relay carries frames between two interfaces through packet sockets. Order is kept: jitter stretches, it never
// swaps. The ends must compute checksums and cut segments themselves, as nothing here does it for them.
func relay(a, b string, delay, jitter, loss float64) {
	x, y := packetSocket(a), packetSocket(b)
	go carry(x, y, delay, jitter, loss)
	carry(y, x, delay, jitter, loss)
}

func carry(from, to int, delay, jitter, loss float64) {
	wait := make(chan late, queued)
	go func() {
		for l := range wait {
			time.Sleep(time.Until(l.due))
			syscall.Write(to, l.frame)
		}
	}()
	for buffer := make([]byte, 65536); ; {
		n, sender, err := syscall.Recvfrom(from, buffer, 0)
		if err == syscall.EINTR || err == syscall.ENETDOWN {
			continue
		}
		if err != nil {
			log.Fatal("recvfrom: ", err)
		}
		if s, is := sender.(*syscall.SockaddrLinklayer); !is || s.Pkttype == outgoing {
			continue
		}
		if rand.Float64()*100 < loss {
			continue
		}
		ms := delay + rand.Float64()*jitter
		select {
		case wait <- late{time.Now().Add(time.Duration(ms * float64(time.Millisecond))), append([]byte(nil), buffer[:n]...)}:
		default:
		}
	}
}

func packetSocket(name string) int {
	i, err := net.InterfaceByName(name)
	if err != nil {
		log.Fatal(name, ": ", err)
	}
	big := uint16(allTypes<<8 | allTypes>>8)
	s, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, int(big))
	if err != nil {
		log.Fatal("packet socket: ", err)
	}
	syscall.SetsockoptInt(s, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<20)
	if err := syscall.Bind(s, &syscall.SockaddrLinklayer{Protocol: big, Ifindex: i.Index}); err != nil {
		log.Fatal("bind to ", name, ": ", err)
	}
	return s
}
