package config

// near returns the name that was probably meant by key, "" when none is close: at most a quarter of the name is wrong,
// missing or too much, in whatever case.
func near(key string, names []string) string {
	best, fewest := "", 0
	for _, name := range names {
		most := max(1, len(name)/4)
		if len(key) > len(name)+most || len(key) < len(name)-most {
			continue // also keeps long keys from costing time
		}
		if d := distance(key, name); d <= most && (best == "" || d < fewest) {
			best, fewest = name, d
		}
	}
	return best
}

// distance is the number of bytes to insert, remove or replace to make a of b (Levenshtein), in whatever case.
func distance(a, b string) int {
	var short [64]int // names are: a document may hold tens of thousands of near misses
	row := append(short[:0], make([]int, len(b)+1)...)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if lower(a[i]) != lower(b[j]) {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
