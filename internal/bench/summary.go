package bench

import "slices"

// Summary is the rounds of one path.
type Summary struct {
	Path                   string
	Tasks                  int
	Pelton, Raw            Figures // medians; of Lateness.Least the least
	Ratio, Lowest, Highest float64
	RatioP50               float64 // where lateness is measured
}

// Summarize has a line for each path, in the order of the rounds.
func Summarize(rounds []Round) []Summary {
	var lines []Summary
	for len(rounds) > 0 {
		end := slices.IndexFunc(rounds, func(r Round) bool { return r.Path != rounds[0].Path })
		if end < 0 {
			end = len(rounds)
		}
		lines = append(lines, summarize(rounds[:end]))
		rounds = rounds[end:]
	}
	return lines
}

func summarize(rounds []Round) Summary {
	ratios := values(rounds, func(r Round) float64 { return r.Ratio })
	return Summary{
		Path: rounds[0].Path, Tasks: rounds[0].Tasks,
		Pelton: medians(rounds, func(r Round) Figures { return r.Pelton }),
		Raw:    medians(rounds, func(r Round) Figures { return r.Raw }),
		Ratio:  median(ratios), Lowest: slices.Min(ratios), Highest: slices.Max(ratios),
		RatioP50: median(values(rounds, func(r Round) float64 { return r.RatioP50 })),
	}
}

func medians(rounds []Round, of func(Round) Figures) Figures {
	each := func(f func(Figures) float64) float64 {
		return median(values(rounds, func(r Round) float64 { return f(of(r)) }))
	}
	m := Figures{
		Rate:        each(func(f Figures) float64 { return f.Rate }),
		SenderCPU:   each(func(f Figures) float64 { return f.SenderCPU }),
		BrokerCPU:   each(func(f Figures) float64 { return f.BrokerCPU }),
		Allocations: each(func(f Figures) float64 { return f.Allocations }),
		Bytes:       each(func(f Figures) float64 { return f.Bytes }),
	}
	if of(rounds[0]).Late != nil {
		m.Late = &Lateness{
			P50:   each(func(f Figures) float64 { return f.Late.P50 }),
			P99:   each(func(f Figures) float64 { return f.Late.P99 }),
			Most:  each(func(f Figures) float64 { return f.Late.Most }),
			Least: slices.Min(values(rounds, func(r Round) float64 { return of(r).Late.Least })),
		}
	}
	return m
}

func values(rounds []Round, of func(Round) float64) []float64 {
	vs := make([]float64, 0, len(rounds))
	for _, r := range rounds {
		vs = append(vs, of(r))
	}
	return vs
}

// median is the middle one, or the mean of the two in the middle.
func median(vs []float64) float64 {
	vs = slices.Sorted(slices.Values(vs))
	middle := len(vs) / 2
	if len(vs)%2 == 1 {
		return vs[middle]
	}
	return (vs[middle-1] + vs[middle]) / 2
}
