package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// faulty is what stands between a daemon and its API server, and how it misbehaves at the moment.
type faulty struct {
	sync.Mutex
	// status answers everything with this code, retry is its Retry-After; slow holds every request up; cut ends every watch after
	// so long; gone answers every watch that wants to go on from a version with 410.
	status, retry int
	slow, cut     time.Duration
	gone          bool
	changed       chan struct{} // closed when the faults change, which ends the watches that are open

	began               time.Time // what was asked since the faults were last set
	all, watches, lists int
	second              int64 // the second since `began` that is counted in `now`
	now, most           int
}

// faults stands in front of an API server: LISTEN is its address for the daemon, UPSTREAM the server's, PKI the cluster's keys. It
// shows the cluster's own certificate, and passes a client's certificate on as the request headers of an authenticating proxy.
// What it does wrong is set over HTTP at CONTROL: /set?status=429&retry=2&slow=2s&cut=3s&gone=1 (what is not named is right); every
// answer there tells what was asked since.
func faults(listen, upstream, control, pki string) {
	server, err := tls.LoadX509KeyPair(pki+"/apiserver.crt", pki+"/apiserver.key")
	if err != nil {
		log.Fatal(err)
	}
	front, err := tls.LoadX509KeyPair(pki+"/front-proxy-client.crt", pki+"/front-proxy-client.key")
	if err != nil {
		log.Fatal(err)
	}
	pool := func(name string) *x509.CertPool {
		pem, err := os.ReadFile(pki + "/" + name)
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(pem) {
			log.Fatal(name, ": ", err)
		}
		return pool
	}
	way := func(certificates ...tls.Certificate) http.RoundTripper {
		return &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool("server-ca.crt"), Certificates: certificates}, MaxIdleConnsPerHost: 16}
	}
	to := &url.URL{Scheme: "https", Host: upstream}
	passes := func(way http.RoundTripper) *httputil.ReverseProxy {
		return &httputil.ReverseProxy{Transport: way, FlushInterval: -1, ErrorLog: log.New(os.Stderr, "", 0),
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				if c := r.In.TLS.PeerCertificates; len(c) > 0 {
					r.Out.Header.Set("X-Remote-User", c[0].Subject.CommonName)
					r.Out.Header["X-Remote-Group"] = c[0].Subject.Organization
				}
			},
			// a server that is not there is not there
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }}
	}
	bearer, certificate := passes(way()), passes(way(front))
	f := &faulty{changed: make(chan struct{}), began: time.Now()}
	go func() { log.Fatal(http.ListenAndServe(control, http.HandlerFunc(f.set))) }()
	s := &http.Server{Addr: listen, ErrorLog: log.New(os.Stderr, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool("client-ca.crt"), ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"http/1.1"}},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Remote-") {
					r.Header.Del(name)
				}
			}
			next := bearer
			if len(r.TLS.PeerCertificates) > 0 {
				next = certificate
			}
			f.serve(next, w, r)
		})}
	log.Fatal(s.ListenAndServeTLS("", ""))
}

func (f *faulty) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	watch := q.Get("watch") == "true"
	f.Lock()
	f.count(watch, q)
	status, retry, slow, cut, gone, changed := f.status, f.retry, f.slow, f.cut, f.gone, f.changed
	f.Unlock()
	if slow > 0 {
		time.Sleep(slow)
	}
	if status == 0 && gone && watch && q.Get("resourceVersion") != "" {
		status = http.StatusGone
	}
	if status != 0 {
		if retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(retry))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"a fault of the lab","code":%d}`, status)
		return
	}
	if !watch {
		next.ServeHTTP(w, r)
		return
	}
	// an open watch ends when the faults change, or when its time is over: without a last chunk, as a broken line does
	if cut == 0 {
		cut = time.Hour
	}
	ctx, end := context.WithTimeout(r.Context(), cut)
	defer end()
	go func() {
		select {
		case <-changed:
			end()
		case <-ctx.Done():
		}
	}()
	next.ServeHTTP(w, r.WithContext(ctx))
}

func (f *faulty) count(watch bool, q url.Values) {
	f.all++
	if watch {
		f.watches++
		if q.Get("resourceVersion") == "" {
			f.lists++
		}
	}
	if s := int64(time.Since(f.began).Seconds()); s != f.second {
		f.second, f.now = s, 0
	}
	f.now++
	f.most = max(f.most, f.now)
}

func (f *faulty) set(w http.ResponseWriter, r *http.Request) {
	f.Lock()
	defer f.Unlock()
	fmt.Fprintf(w, "asked %d watches %d lists %d most %d seconds %.0f\n", f.all, f.watches, f.lists, f.most, time.Since(f.began).Seconds())
	if r.URL.Path != "/set" {
		return
	}
	q := r.URL.Query()
	f.status, _ = strconv.Atoi(q.Get("status"))
	f.retry, _ = strconv.Atoi(q.Get("retry"))
	f.slow, _ = time.ParseDuration(q.Get("slow"))
	f.cut, _ = time.ParseDuration(q.Get("cut"))
	f.gone = q.Get("gone") != ""
	f.began, f.all, f.watches, f.lists, f.second, f.now, f.most = time.Now(), 0, 0, 0, 0, 0, 0
	close(f.changed)
	f.changed = make(chan struct{})
}

// reword stands between a caller and a local socket, and says other for word in what comes back.
func reword(socket, upstream, word, other string) {
	listen, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	for {
		caller, err := listen.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer caller.Close()
			up, err := net.Dial("unix", upstream)
			if err != nil {
				log.Print(err)
				return
			}
			defer up.Close()
			go io.Copy(up, caller)
			answers := bufio.NewReader(up)
			for {
				line, err := answers.ReadString('\n')
				if _, failed := io.WriteString(caller, strings.ReplaceAll(line, word, other)); err != nil || failed != nil {
					return
				}
			}
		}()
	}
}
