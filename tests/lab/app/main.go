// app is the lab's workload, probe, pause container and impaired wire, in one static program:
//
//	app serve PORT                        HTTP: "hello from HOST to CALLER"; /blob?n=BYTES gives that many known bytes
//	app get URL                           prints the answer, fails unless it is 200
//	app beat URL SECONDS                  asks five times a second, each time anew; tells how many answered and the longest time without
//	app blob URL                          fetches it and prints its size and whether every byte is right
//	app lookup NAME                       prints its addresses
//	app listen udp|tcp PORT SECONDS       answers, and prints each caller, until the time is over; fails when none came
//	app ask udp|tcp HOST PORT [SRCPORT]   one question; prints the answer and the time it took, fails without one in 2 s
//	app echo PORT SECONDS                 answers UDP with itself until the time is over
//	app rtt HOST PORT SECONDS             a question to `echo` every 5 ms; prints lost, p50 and p99 in microseconds
//	app pour HOST PORT SECONDS            UDP of 1,200 bytes as fast as it goes; prints how many
//	app hear PORT SECONDS                 answers each UDP datagram with its first eight bytes until the time is over
//	app sized HOST PORT BYTES N df|-      N datagrams to `hear`, cut up where needed only if the kernel knows the path (df) or wherever it
//	                                      must be; prints 1 for each that was answered within a second and 0 for others
//	app relay IF IF DELAY JITTER LOSS     carries Ethernet frames both ways, late (ms each way) and not all (percent)
//	app faults LISTEN UPSTREAM CONTROL PKI   a proxy before an API server, that can answer wrongly, late or not at all
//	app reword SOCKET UPSTREAM WORD OTHER   a local socket before another one, whose answers say OTHER for WORD
//	app call METHOD HOST PORT PATH [BEARER]   one HTTP request; prints the status, fails without an answer
//	app hold HOST PORT N SECONDS          opens connections and says nothing; prints how many were left open
//	app scan tcp|udp HOST FROM TO         asks every port; prints those that answer
//	app forge SOURCE HOST udp|tcp|icmp|rest|cut PORT N   packets from somebody else's address (rest, cut: of TCP, shorter than they may be)
//	app flood HOST PORT KEY RATE SECONDS [SOURCE]   WireGuard initiations by nobody, made for that public key, so many a second
//	app replay FILE HOST PORT             what tcpdump -w kept of UDP to that port, once more, from here
//	app ticket LINE [BIT]                 a ticket's keys (of one with that bit of its secret turned over), as JSON
//	app key INVITER [SECRET]              a new key, or that one, and its proof towards an inviter, as JSON
//	app pause                             holds a pod's namespaces open
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	arg := append(os.Args[1:], "", "", "", "", "", "", "")
	switch n := len(os.Args) - 2; {
	case arg[0] == "pause" && n == 0:
		pause()
	case arg[0] == "serve" && n == 1:
		serve(arg[1])
	case arg[0] == "get" && n == 1:
		get(arg[1])
	case arg[0] == "beat" && n == 2:
		beat(arg[1], time.Duration(number(arg[2])*float64(time.Second)))
	case arg[0] == "blob" && n == 1:
		blob(arg[1])
	case arg[0] == "lookup" && n == 1:
		lookup(arg[1])
	case arg[0] == "listen" && n == 3:
		listen(arg[1], arg[2], time.Duration(number(arg[3])*float64(time.Second)))
	case arg[0] == "ask" && (n == 3 || n == 4):
		ask(arg[1], net.JoinHostPort(arg[2], arg[3]), arg[4])
	case arg[0] == "echo" && n == 2:
		echo(arg[1], time.Duration(number(arg[2])*float64(time.Second)))
	case arg[0] == "rtt" && n == 3:
		rtt(net.JoinHostPort(arg[1], arg[2]), time.Duration(number(arg[3])*float64(time.Second)))
	case arg[0] == "pour" && n == 3:
		pour(net.JoinHostPort(arg[1], arg[2]), time.Duration(number(arg[3])*float64(time.Second)))
	case arg[0] == "hear" && n == 2:
		hear(arg[1], time.Duration(number(arg[2])*float64(time.Second)))
	case arg[0] == "sized" && n == 5:
		sized(net.JoinHostPort(arg[1], arg[2]), int(number(arg[3])), int(number(arg[4])), arg[5] == "df")
	case arg[0] == "relay" && n == 5:
		relay(arg[1], arg[2], number(arg[3]), number(arg[4]), number(arg[5]))
	case arg[0] == "faults" && n == 4:
		faults(arg[1], arg[2], arg[3], arg[4])
	case arg[0] == "reword" && n == 4:
		reword(arg[1], arg[2], arg[3], arg[4])
	case arg[0] == "call" && (n == 4 || n == 5):
		call(arg[1], arg[2], arg[3], arg[4], arg[5])
	case arg[0] == "hold" && n == 4:
		hold(arg[1], arg[2], int(number(arg[3])), time.Duration(number(arg[4])*float64(time.Second)))
	case arg[0] == "scan" && n == 4:
		scan(arg[1], arg[2], arg[3], arg[4])
	case arg[0] == "forge" && n == 5:
		forge(arg[1], arg[2], arg[3], arg[4], int(number(arg[5])))
	case arg[0] == "flood" && (n == 5 || n == 6):
		flood(arg[1], arg[2], arg[3], arg[6], int(number(arg[4])), time.Duration(number(arg[5])*float64(time.Second)))
	case arg[0] == "ticket" && n == 1:
		ticket(arg[1], -1)
	case arg[0] == "ticket" && n == 2:
		ticket(arg[1], int(number(arg[2])))
	case arg[0] == "key" && (n == 1 || n == 2):
		newKey(arg[1], arg[2])
	case arg[0] == "replay" && n == 3:
		file, err := os.ReadFile(arg[1])
		if err != nil {
			log.Fatal(err)
		}
		replay(file, arg[2], arg[3])
	default:
		log.Fatal("usage: app serve|get|beat|blob|lookup|listen|ask|echo|rtt|pour|hear|sized|relay|faults|reword|call|hold|scan|forge|flood|replay|ticket|key|pause; see the head of main.go")
	}
}

func number(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v < 0 {
		log.Fatalf("not a number of at least 0: %q", s)
	}
	return v
}

// known is byte i of every blob: no period that divides a packet.
func known(i int) byte { return byte(i*7 + i/251) }

func serve(port string) {
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Print(r.RemoteAddr, " ", r.Method, " ", r.URL)
		fmt.Fprintf(w, "hello from %s to %s\n", host, r.RemoteAddr)
	})
	http.HandleFunc("/blob", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n"))
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for at := 0; at < n; {
			part := make([]byte, min(n-at, 65536))
			for i := range part {
				part[i] = known(at + i)
			}
			if _, err := w.Write(part); err != nil {
				return
			}
			at += len(part)
		}
	})
	log.Print("serving on ", port)
	log.Fatal(http.ListenAndServe(":"+port, nil))
}

func fetch(url string, limit time.Duration) *http.Response {
	r, err := (&http.Client{Timeout: limit, Transport: &http.Transport{}}).Get(url)
	if err != nil {
		log.Fatal(err)
	}
	if r.StatusCode != 200 {
		log.Fatal(r.Status)
	}
	return r
}

func get(url string) { io.Copy(os.Stdout, fetch(url, 3*time.Second).Body) }

func beat(url string, life time.Duration) {
	begun := time.Now()
	last, longest, answered := begun, time.Duration(0), 0
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for end := begun.Add(life); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if r, err := c.Get(url); err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			longest = max(longest, time.Since(last))
			last, answered = time.Now(), answered+1
		}
	}
	longest = max(longest, time.Since(last))
	fmt.Printf("%d answered, longest pause %.1f s, last %.1f s ago\n", answered, longest.Seconds(), time.Since(last).Seconds())
}

func blob(url string) {
	b, err := io.ReadAll(fetch(url, 60*time.Second).Body)
	if err != nil {
		log.Fatal(err)
	}
	for i, c := range b {
		if c != known(i) {
			log.Fatalf("byte %d of %d is wrong", i, len(b))
		}
	}
	fmt.Println(len(b), "bytes, all right")
}

func lookup(name string) {
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Second)
	defer stop()
	a, err := net.DefaultResolver.LookupHost(ctx, name)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a)
}

func listen(network, port string, life time.Duration) {
	heard := false
	end := time.Now().Add(life)
	if network == "udp" {
		c, err := net.ListenPacket("udp4", ":"+port)
		if err != nil {
			log.Fatal(err)
		}
		c.SetDeadline(end)
		for b := make([]byte, 2048); ; heard = true {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				break
			}
			fmt.Println("heard", from)
			c.WriteTo([]byte("answer to "+from.String()), from)
		}
	} else {
		l, err := net.Listen("tcp4", ":"+port)
		if err != nil {
			log.Fatal(err)
		}
		l.(*net.TCPListener).SetDeadline(end)
		for ; ; heard = true {
			c, err := l.Accept()
			if err != nil {
				break
			}
			fmt.Println("heard", c.RemoteAddr())
			fmt.Fprint(c, "answer to ", c.RemoteAddr())
			c.Close()
		}
	}
	if !heard {
		log.Fatal("heard nobody")
	}
}

func ask(network, to, source string) {
	d := net.Dialer{Timeout: 2 * time.Second}
	if source != "" {
		a, err := net.ResolveUDPAddr("udp4", ":"+source)
		if err != nil {
			log.Fatal(err)
		}
		d.LocalAddr = a
		if network == "tcp" {
			d.LocalAddr = &net.TCPAddr{Port: a.Port}
		}
	}
	t := time.Now()
	c, err := d.Dial(network+"4", to)
	if err != nil {
		log.Fatal(err)
	}
	c.SetDeadline(t.Add(2 * time.Second))
	c.Write([]byte("question"))
	b := make([]byte, 2048)
	n, err := c.Read(b)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s in %.1f ms\n", b[:n], float64(time.Since(t).Microseconds())/1000)
}

// rtt asks every 5 ms, whatever became of the question before; an answer after 1 s is lost.
func rtt(to string, life time.Duration) {
	c, err := net.Dial("udp4", to)
	if err != nil {
		log.Fatal(err)
	}
	const every = 5 * time.Millisecond
	asked := make([]time.Time, int(life/every))
	took := make([]time.Duration, 0, len(asked))
	heard := make(chan struct{})
	var lock sync.Mutex
	go func() {
		defer close(heard)
		for b := make([]byte, 2048); ; {
			n, err := c.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			at := 0
			if err != nil || n < 1 {
				continue
			}
			if _, err := fmt.Sscanf(string(b[:n]), "%d", &at); err != nil || at < 0 || at >= len(asked) {
				continue
			}
			lock.Lock()
			if t := time.Since(asked[at]); !asked[at].IsZero() && t < time.Second {
				took = append(took, t)
			}
			asked[at] = time.Time{}
			lock.Unlock()
		}
	}()
	for at := range asked {
		lock.Lock()
		asked[at] = time.Now()
		lock.Unlock()
		fmt.Fprint(c, at)
		time.Sleep(every)
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	<-heard
	if len(took) == 0 {
		log.Fatal("heard nobody")
	}
	slices.Sort(took)
	of := func(part float64) int64 { return took[int(float64(len(took)-1)*part)].Microseconds() }
	fmt.Println(len(asked)-len(took), of(0.5), of(0.99))
}

func pour(to string, life time.Duration) {
	c, err := net.Dial("udp4", to)
	if err != nil {
		log.Fatal(err)
	}
	b, n := make([]byte, 1200), 0
	for end := time.Now().Add(life); n%256 != 0 || time.Now().Before(end); n++ {
		c.Write(b)
	}
	fmt.Println(n)
}

// hear answers each UDP datagram with its first eight bytes, until the time is over.
func hear(port string, life time.Duration) {
	c, err := net.ListenPacket("udp4", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(life))
	for b := make([]byte, 65536); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:min(n, 8)], from)
	}
}

// sized sends datagrams of one size, and tells which of them were heard.
func sized(to string, size, count int, df bool) {
	c, err := net.Dial("udp4", to)
	if err != nil {
		log.Fatal(err)
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	how := syscall.IP_PMTUDISC_DONT
	if df {
		how = syscall.IP_PMTUDISC_WANT
	}
	raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, how)
	})
	if err != nil {
		log.Fatal(err)
	}
	for at := range count {
		b, got := make([]byte, size), make([]byte, 64)
		copy(b, fmt.Sprintf("%08d", at))
		c.Write(b)
		heard := 0
		for c.SetReadDeadline(time.Now().Add(time.Second)); ; {
			n, err := c.Read(got)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if n == 8 && string(got[:8]) == string(b[:8]) {
				heard = 1
				break
			}
		}
		fmt.Print(heard, " ")
	}
	fmt.Println()
}

// echo answers each UDP question with itself, until the time is over.
func echo(port string, life time.Duration) {
	c, err := net.ListenPacket("udp4", ":"+port)
	if err != nil {
		log.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(life))
	for b := make([]byte, 2048); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from)
	}
}

// pause holds a pod's namespaces open until it is told to end, and reaps what is left to it.
func pause() {
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range sig {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
