package acl

import "testing"

func TestExplainFollowsTheKernelsOrder(t *testing.T) {
	l := NewList([]uint32{33, 1001}, []uint32{4, 998})
	tests := []struct {
		name  string
		list  List
		owner uint32
		uid   uint32
		gids  []uint32
		want  Decision
	}{
		{"owner", l, 0, 0, []uint32{0}, Decision{true, "owner of the file"}},
		{"owner who is also named", NewList([]uint32{1001}, nil), 1001, 1001, nil, Decision{true, "owner of the file"}},
		{"owner of an empty list", List{}, 1001, 1001, nil, Decision{true, "owner of the file"}},
		{"root where another owns", List{}, 1001, 0, nil, Decision{true, "root, by capability"}},
		{"named user", l, 0, 33, []uint32{33}, Decision{true, "named user 33"}},
		{"a named user is decided before groups", l, 0, 33, []uint32{998}, Decision{true, "named user 33"}},
		{"primary group", l, 0, 500, []uint32{4}, Decision{true, "member of group 4"}},
		{"supplementary group", l, 0, 500, []uint32{500, 27, 998}, Decision{true, "member of group 998"}},
		{"stranger", l, 0, 500, []uint32{500}, Decision{false, "neither user 500 nor one of its groups is admitted"}},
		{"the owning group has no right", l, 0, 500, []uint32{0}, Decision{false, "neither user 500 nor one of its groups is admitted"}},
		{"the owning group when it is named", NewList(nil, []uint32{0}), 0, 500, []uint32{0}, Decision{true, "member of group 0"}},
		{"an id of a user is none of a group", NewList([]uint32{7}, nil), 0, 500, []uint32{7}, Decision{false, "neither user 500 nor one of its groups is admitted"}},
		{"nobody is admitted", List{}, 0, 33, []uint32{0, 33}, Decision{false, "nobody but the owner is admitted"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.list.ExplainOwnedBy(tt.owner, tt.uid, tt.gids); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
			if tt.owner == 0 {
				if got := tt.list.Explain(tt.uid, tt.gids); got != tt.want {
					t.Errorf("Explain says %+v, want %+v", got, tt.want)
				}
			}
		})
	}
}
