package main

import (
	"fmt"
	"math"
	"slices"
)

// spread is a figure over the rounds of a run: the median, and the least and
// the greatest.
type spread struct{ Mid, Min, Max float64 }

// over summarises v. Rounds without a figure are NaN and do not count; without
// any the spread is NaN.
func over(v []float64) spread {
	s := slices.DeleteFunc(slices.Clone(v), math.IsNaN)
	if len(s) == 0 {
		return spread{math.NaN(), math.NaN(), math.NaN()}
	}
	slices.Sort(s)
	n := len(s)
	return spread{(s[(n-1)/2] + s[n/2]) / 2, s[0], s[n-1]}
}

// ratios divides round by round, so that what slowed a whole round cancels out.
func ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		if r[i] = a[i] / b[i]; b[i] == 0 {
			r[i] = math.NaN()
		}
	}
	return r
}

// ratio is the median of the rounds' ratios, and their spread.
func ratio(a, b []float64) spread { return over(ratios(a, b)) }

func (s spread) String() string {
	if math.IsNaN(s.Mid) {
		return "-"
	}
	return fmt.Sprintf("%s [%s, %s]", digits3(s.Mid), digits3(s.Min), digits3(s.Max))
}

// digits3 prints three significant digits, and thousands as whole numbers.
func digits3(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 1000:
		return thousands(int64(math.Round(v)))
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.01 || a == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.2g", v)
	}
}

// thousands puts a comma between groups of three digits.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
