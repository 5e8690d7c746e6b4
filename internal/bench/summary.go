package bench

import "slices"

// Summary is the rounds of one path.
type Summary struct {
	Path                   string
	Pelton, Raw            Figures // medians
	Ratio, Lowest, Highest float64
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
		Path:   rounds[0].Path,
		Pelton: medians(rounds, func(r Round) Figures { return r.Pelton }),
		Raw:    medians(rounds, func(r Round) Figures { return r.Raw }),
		Ratio:  median(ratios), Lowest: slices.Min(ratios), Highest: slices.Max(ratios),
	}
}

func medians(rounds []Round, of func(Round) Figures) Figures {
	each := func(f func(Figures) float64) float64 {
		return median(values(rounds, func(r Round) float64 { return f(of(r)) }))
	}
	return Figures{
		Rate:        each(func(f Figures) float64 { return f.Rate }),
		SenderCPU:   each(func(f Figures) float64 { return f.SenderCPU }),
		BrokerCPU:   each(func(f Figures) float64 { return f.BrokerCPU }),
		Allocations: each(func(f Figures) float64 { return f.Allocations }),
		Bytes:       each(func(f Figures) float64 { return f.Bytes }),
	}
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
