package produce

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseRate(t *testing.T) {
	for rate, want := range map[string]time.Duration{
		"1/s":          time.Second,
		"2/s":          500 * time.Millisecond,
		"3/s":          333333333 * time.Nanosecond,
		"1000000000/s": 1,
		"100/m":        600 * time.Millisecond,
		"5/h":          12 * time.Minute,
		"007/m":        time.Minute / 7,
	} {
		if got, err := ParseRate(rate); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", rate, got, err, want)
		}
	}
}

func TestParseRateErrors(t *testing.T) {
	for _, rate := range []string{
		"", "/", "1", "/s", "1/", "0/s", "-1/s", "+1/s", "1.5/s", "1e3/s", "1/d", "1/S", "1/sec", "1/s/s", " 1/s", "1 /s",
		"1_000/s", "99999999999999999999/s", "x/s", "1//s",
	} {
		_, err := ParseRate(rate)
		if err == nil {
			t.Errorf("%q is accepted", rate)
			continue
		}
		if !strings.HasPrefix(err.Error(), `rate: "`+rate+`": must be `) {
			t.Errorf("%q: %v", rate, err)
		}
	}
	_, err := ParseRate("1000000001/s")
	if want := `rate: "1000000001/s": must be at most 1000000000/s`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func FuzzParseRate(f *testing.F) {
	for _, seed := range []string{"1/s", "100/m", "5/h", "0/s", "/", "18446744073709551616/h", "9223372036854775807/h"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rate string) {
		got, err := ParseRate(rate)
		if err == nil && (got < 1 || got > time.Hour) {
			t.Fatalf("%q: %v", rate, got)
		}
	})
}

func TestPacer(t *testing.T) {
	for _, interval := range []time.Duration{0, time.Nanosecond, 10 * time.Microsecond, time.Millisecond, time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			pace := pacer{interval: interval}
			start := time.Now()
			const n = 1000
			for range n {
				if !pace.wait(t.Context()) {
					t.Fatal("stopped")
				}
			}
			if got, want := time.Since(start), (n-1)*interval; got != want {
				t.Errorf("%d messages every %v took %v, want %v", n, interval, got, want)
			}
		})
	}
}

func TestPacerDoesNotMakeUpForAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := pacer{interval: 10 * time.Millisecond}
		pace.wait(t.Context())
		<-time.After(time.Hour)
		start := time.Now()
		burst := 0
		for pace.wait(t.Context()) && time.Since(start) == 0 {
			burst++
		}
		if want := int(catchUp/pace.interval) + 1; burst != want {
			t.Errorf("%d at once, want %d", burst, want)
		}
	})
}

func TestPacerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := pacer{interval: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !pace.wait(ctx) {
			t.Error("the first is due at once")
		}
		for range 2 {
			if pace.wait(ctx) {
				t.Error("waits on")
			}
		}
		if (&pacer{}).wait(ctx) {
			t.Error("goes on without an interval")
		}
	})
}
