package bench

import (
	"context"
	"runtime"
	"time"
)

// meter reads what a piece of work uses.
type meter struct {
	broker    *broker
	brokerCPU time.Duration // what was used when it was started
	senderCPU time.Duration
	mem       runtime.MemStats
	began     time.Time
}

// start counts from now on, after the garbage of before is gone.
func (m *meter) start() (err error) {
	if m.brokerCPU, err = m.broker.used(); err != nil {
		return err
	}
	runtime.GC()
	runtime.ReadMemStats(&m.mem)
	m.senderCPU, m.began = processorTime(), time.Now()
	return nil
}

// figures are what was used since, for each task.
func (m *meter) figures(tasks int) (Figures, error) {
	took, sender := time.Since(m.began), processorTime()-m.senderCPU
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	broker, err := m.broker.used()
	n := float64(tasks)
	return Figures{
		Rate:        n / took.Seconds(),
		SenderCPU:   float64(sender.Microseconds()) / n,
		BrokerCPU:   float64((broker - m.brokerCPU).Microseconds()) / n,
		Allocations: float64(after.Mallocs-m.mem.Mallocs) / n,
		Bytes:       float64(after.TotalAlloc-m.mem.TotalAlloc) / n,
	}, err
}

// timed does a run's work and says what it used.
func (b *broker) timed(ctx context.Context, r *Run, work func(context.Context, *Run) error) (Figures, error) {
	m := meter{broker: b}
	r.restart = m.start
	if err := m.start(); err != nil {
		return Figures{}, err
	}
	if err := work(ctx, r); err != nil {
		return Figures{}, err
	}
	f, err := m.figures(r.Tasks)
	if r.late != nil {
		f.Late, f.Rate = r.late, float64(r.Tasks)/r.took.Seconds()
	}
	return f, err
}
