#!/usr/bin/perl
#
# Every rule of the pure core is needed: with one taken out of its source, the
# comparison with the model, or of orders of arrival among each other, or a case
# done by hand, fails.
#
# A mutant is a file and texts that are replaced in it, each found exactly once.
# It counts as found out if a test says so, crashes or does not end.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(basename dirname);
use File::Temp qw(tempdir);

my $here = abs_path(dirname(__FILE__));
my $core = "$here/../../src";
my $work = tempdir(CLEANUP => 1);
my $flags = "-std=gnu99 -O1 -w -DCOZE_STANDALONE -DCOZE_STANDALONE_ARENA -I$core -I$here";
my @shared = map { "$here/$_.c" } qw(tap table history generate node replay);
my @core = grep { !/wire|codec|buf\.c/ } glob("$core/base/{vector,policy,cut,fold*}.c");
my $n = 0;

my @mutants = (
    [ 'fold.c', 'what is set aside has no mark',
        "coze_turn_lost(turn, turn->entry->version, outcome);\n\treturn turn->state;",
        "coze_turn_lost(turn, turn->entry->version, outcome);\n"
          . "\tCozeState *s = coze_alloc(sizeof(CozeState));\n\t*s = *turn->state;\n"
          . "\ts->presence = coze_marks_add(s->presence, turn->entry->version);\n\treturn s;" ],
    [ 'fold.c', 'the later of two keeps in mind what it had not seen',
        'state->presence = coze_marks_union(state->presence, turn->unseen);
	return state;
}

static const CozeState *
highest', "return state;\n}\n\nstatic const CozeState *\nhighest" ],
    [ 'fold.c', 'of equal ranks the later stays', 'turn->state->ranked) >= 0)', 'turn->state->ranked) > 0)' ],
    [ 'fold.c', 'a deletion ranks by the row that it deleted',
        'new != NULL ? new : turn->op->old);', 'new);' ],
    [ 'fold.c', 'the first in node_order stays', '< mine)', '> mine)' ],
    [ 'fold.c', 'a resolved row is marked by both sides',
        'state->presence = state->all_columns = coze_marks_union(state->presence, turn->unseen);', ';' ],
    [ 'fold.c', 'a resolved row must be one that can be stored',
        '!table->callbacks->valid(table->arg, row))', 'false)' ],
    [ 'fold.c', 'a TRUNCATE deletes every key', 'coze_fold_set_state(fold, k, absent);', ';' ],
    [ 'fold.c', 'what falls to a TRUNCATE is noted', 'unseen = coze_state_unseen(fold->table, state, entry);
		for', 'unseen = NULL;
		for' ],
    [ 'fold.c', 'each loss is noted once', 'while (i >= 0 && !coze', 'i = -1; while (i >= 0 && !coze' ],
    [ 'fold_merge.c', 'merge goes by what is unseen of the column',
        'coze_marks_unseen(merge->columns[c], turn->entry)', 'turn->unseen' ],
    [ 'fold_merge.c', 'what is combined is marked by both sides',
        'merge->columns[column] = coze_marks_union(others, merge->own)', 'merge->columns[column] = merge->own' ],
    [ 'fold.c', 'who had seen all marks what it changed, and no more',
        'policy == COZE_ROW_MERGE && turn.type == COZE_CONFLICT_UPDATE_UPDATE ?', 'false ?' ],
    [ 'fold_merge.c', 'who writes the same is in nobody\'s way', 'agrees(turn, policy, column) ?', 'false ?' ],
    [ 'fold_merge.c', 'who loses a part of a value is noted',
        "note_losers(turn, merge, column, others);\n\t\t\t/* FALL", '/* FALL' ],
    [ 'fold_merge.c', 'also if it is the later',
        'if (result & COZE_COMBINE_LOST_LATER)', 'if (false)' ],
    [ 'fold_merge.c', 'values that are not alike are not combined',
        'return COLUMN_REPLACED;
	}', 'return COLUMN_COMBINED;
	}' ],
    [ 'fold.c', 'each type has its policy', 'return policy->row[type];', 'return policy->row[COZE_CONFLICT_UPDATE_UPDATE];' ],
    [ 'fold_merge.c', 'a merge that cannot be stored gives way to the later',
        'merge.possible = table->callbacks->valid(table->arg, merge.row);', ';' ],
    [ 'fold_merge.c', 'nor one that cannot be computed', 'merge->possible = false;', ';' ],
    [ 'fold_merge.c', 'an unchanged column has no part in a merge',
        'return !coze_value_same(turn->fold->table, column, op->old, op->new);', 'return true;' ],
    [ 'fold_merge.c', 'the columns of a unique index stay together',
        'if (unit == NULL || unit[c] < 0 || unit[c] == c)', '',
        'return c == column || (fold->unit != NULL && fold->unit[c] == column);', 'return c == column;' ],
    [ 'fold_unique.c', 'unique values are settled', 'bool		again = true;', 'bool		again = false;' ],
    [ 'fold_unique.c', 'last_update_wins takes the other row\'s place',
        'op->policy->unique != COZE_ROW_LAST_UPDATE_WINS ||', 'true ||' ],
    [ 'fold_unique.c', 'who gives way shows again what the key showed',
        'columns[c] = coze_state_marks(before, c);', ';' ],
    [ 'fold_unique.c', 'what an entry had seen does not lose to it',
        'coze_marks_unseen(index_marks(fold->table, index, state), entry)', 'index_marks(fold->table, index, state)' ],
    [ 'fold_unique.c', 'no row goes without a note', 'if (lost == NULL)', 'if (false)' ],
    [ 'fold_unique.c', 'a resolver cannot piece a unique value together',
        'bool		is_a = a != NULL,
					is_b = b != NULL;', 'bool is_a = true, is_b = true; continue;' ],
    [ 'fold_records.c', 'pruning leaves base records', "return true;\n\t}\n\treturn false;\n}\n\n/* A row that",
        "return false;\n\t}\n\treturn false;\n}\n\n/* A row that" ],
    [ 'fold_records.c', 'records of whose unique value a partial operation carries',
        '(is_carried(table, &values, row) ||', '(false ||' ],
    [ 'fold_records.c', 'also if it gave the value up',
        'carry(table, values, partial[p]->ops[i].old);', ';' ],
    [ 'fold_records.c', 'records of what a partial TRUNCATE had not seen',
        'truncated_unseen(table, base[k], partial, npartial))));', 'false)));' ],
    [ 'fold_records.c', 'records stay while anything is partial', "(record[k] ||\n", "(false ||\n" ],
    [ 'fold_records.c', 'records go when nothing is partial', 'record[k] = npartial > 0 &&
			(record[k] ||', 'record[k] = record[k] || npartial > 0 &&
			(record[k] ||' ],
    [ 'fold_records.c', 'a record comes before an old row', 'if (record != NULL)
		return record;', '' ],
    [ 'fold_latest.c', 'only what is unseen is lost', 'if (coze_vector_has_seen(later->seen, later->version, earlier->version))
			continue;', '' ],
    [ 'cut.c', 'a dropped node\'s tail is evened out', 'if (last >= 0 && known != last)', 'if (false)' ],
    [ 'cut.c', 'every survivor has seen the drop', 'if (!knows_drops(members, n, &members[i]))', 'if (false)' ],
    [ 'cut.c', 'dropped nodes leave the cut together', 'if (is_dropped(&members[i]) &&
			coze_cut_known(member', 'if (members[i].origin == 3 && is_dropped(&members[i]) &&
			coze_cut_known(member' ],
    [ 'cut.c', 'a dropped node leaves the cut in the end', 'closed[i] = coze_cut_closed(members, n, i);', 'closed[i] = false;' ],
    [ 'cut.c', 'a member\'s own entries count', 'if (origin == member->origin)
		return member->last;', 'if (origin == member->origin)
		return INT64_MAX;' ],
    [ 'cut.c', 'every member counts', 'for (int o = 0; !closed[m] && o < n; o++)', 'for (int o = 0; m == 0 && o < n; o++)' ],
    [ 'cut.c', 'the cut never goes back', 'return Max(cut, least);', 'return least;' ],
    [ 'cut.c', 'beats end', 'if (seen < highest)', 'if (true)' ],
    [ 'cut.c', 'a beat says that a drop is known', 'if (members[m].origin == origin && is_dropped', 'if (false && is_dropped' ],
    [ 'vector.c', 'an entry has seen its own origin\'s', 'return other.hlc <= own.hlc;', 'return other.hlc == own.hlc;' ],
);

sub run { return system("$_[0] >>$work/output 2>&1") }

sub object { my ($source) = @_; return "$work/" . basename($source, '.c') . ".o" }

sub build_all
{
    for my $source (@core, @shared, map { "$here/$_.c" } qw(history_test random_test cut_test vector_test fold_test))
    {
        run("cc $flags -c -o " . object($source) . " $source") == 0 or die "cannot compile $source\n";
    }
}

# Histories of every policy from the model, if there is Python.
sub make_histories
{
    return () if run('command -v python3') != 0;
    my %runs = (mixed => 250, merge => 120, resolver => 60, first_update_wins => 60, hold => 20,
        highest_version => 30, node_order => 30, last_update_wins => 40);
    my @jobs = map { "python3 $here/../model.py --seed 20000 --runs $runs{$_} --policy $_ --export $work/$_.txt &" }
        sort keys %runs;
    run('{ ' . join(' ', @jobs) . ' wait; }') == 0 or die "cannot make histories\n";
    return map { "$work/$_.txt" } sort keys %runs;
}

# The status of all tests, with one object in place of another.
sub tests_pass
{
    my ($replaced, $object, @histories) = @_;
    my @objects = map { my $o = object($_); $o eq $replaced ? $object : $o } @core;
    my @common = map { object($_) } @shared;
    my %needs = (
        cut_test => [], vector_test => [], fold_test => [],
        random_test => ['4000'], history_test => [ '-o', '3', @histories ]);

    for my $test (qw(cut_test vector_test fold_test history_test random_test))
    {
        next if $test eq 'history_test' && !@histories;
        my @more = $test =~ /^(cut|vector)/ ? ($common[0]) : @common;
        run("cc -o $work/mutant $work/$test.o @more @objects") == 0 or die "cannot link $test\n";
        return 0 if run("timeout 60 $work/mutant @{ $needs{$test} }") != 0;
    }
    return 1;
}

sub ok
{
    my ($ok, $what) = @_;
    $n++;
    print $ok ? "ok $n - $what\n" : "not ok $n - $what\n";
}

sub mutant_found
{
    my ($file, $pairs, @histories) = @_;
    my $source = "$core/base/$file";
    local $/;
    open my $in, '<', $source or die "$source: $!";
    my $text = <$in>;
    for my $i (0 .. @$pairs / 2 - 1)
    {
        my ($old, $new) = @$pairs[ 2 * $i, 2 * $i + 1 ];
        my $found = () = $text =~ /\Q$old\E/g;
        if ($found != 1)
        {
            print "# found $found times in $file: $old\n";
            return 0;
        }
        $text =~ s/\Q$old\E/$new/;
    }
    open my $out, '>', "$work/mutant_$file" or die;
    print $out $text;
    close $out;
    run("cc $flags -c -o $work/mutant.o $work/mutant_$file") == 0 or die "mutant of $file does not compile\n";
    return !tests_pass(object($source), "$work/mutant.o", @histories);
}

$| = 1;
build_all();
my @histories = make_histories();
ok(tests_pass('', '', @histories), 'with every rule in place all holds');
for my $mutant (@mutants)
{
    my ($file, $what, @pairs) = @$mutant;
    ok(mutant_found($file, \@pairs, @histories), "found out, if not: $what");
}
print "1..$n\n";
