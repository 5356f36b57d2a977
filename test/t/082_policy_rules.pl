# Interleavings that break policies, each with its rule in force and with the rule taken out,
# when it must break.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('rules', qw(a b));
my $tables = 0;
everywhere('beats', 'CREATE TABLE beats (id uuid PRIMARY KEY DEFAULT gen_random_uuid())');

# code gets a fresh table and says what is wrong.
sub scenario
{
    my ($name, $rule, $columns, $code) = @_;
    return if defined $ENV{SCENARIO} && $name !~ /$ENV{SCENARIO}/;
    for my $off (0 .. ($rule ? 1 : 0))
    {
        my $table = 't' . ++$tables;
        everywhere($table, "CREATE TABLE $table ($columns)");
        rule_off($rule) if $off;
        my $said = $code->($table, $off);
        rule_on($rule) if $off;
        $off ? isnt($said, '', "$name: breaks without the rule $rule") : is($said, '', "$name: holds");
    }
    return;
}

sub expect
{
    my ($table, $rows) = @_;
    my $said = same($table);
    return $said eq $rows ? '' : "rows $said, not $rows";
}

sub policy
{
    my ($table, $policy) = @_;
    sql('a', "SELECT cozesync.set_conflict_policy('$table', $policy)");
    return carry_all();
}

# What an applier does when it has nothing else to do it does at once.
sub quick_beats
{
    my ($on) = @_;
    sql('a', $on ? q{ALTER SYSTEM SET cozesync.beat_interval = '50ms'} : q{ALTER SYSTEM RESET cozesync.beat_interval});
    sql('a', 'SELECT pg_reload_conf()');
    return;
}

my $applier = q{SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type LIKE 'cozesync applier%'};

sub restart_applier
{
    my ($db) = @_;
    my $pid = sql($db, $applier);
    sql($db, "SELECT pg_terminate_backend($pid)");
    return poll_until($server, "SELECT EXISTS ($applier AND pid <> $pid)", 't', $db);
}

# Of a transaction that the group's policy overtook: it names the one that it was made under.
scenario('policy change in flight', 'policy-named', 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('a', "UPDATE $t SET v = 'earlier' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'later' WHERE k = 1");
    carry('a', 'b');
    sql('a', "SELECT cozesync.set_conflict_policy('$t', 'first_update_wins')");
    carry_all();
    return expect($t, '(1,later)');
});

# A deletion leaves nothing to hold on to; who inserts before it has committed has not seen it.
# a's insert, which comes to light late, loses; the hlc of what was late.
sub insert_unseen
{
    my ($t) = @_;
    policy($t, q{'node_order', node_order => ARRAY['b', 'a']});
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('b', "DELETE FROM $t WHERE k = 1");
    sql('a', "DELETE FROM $t WHERE k = 1");
    stop_at('apply-before-commit');
    my $upto = carry_no_wait('b', 'a');
    stopped_at('apply-before-commit');
    sql('a', "INSERT INTO $t VALUES (1, 'again')");
    my $late = held('a', 'a');
    go_at('apply-before-commit');
    wait_applied('a', 'b', $upto);
    return $late;
}

sub rows_become_the_same
{
    my ($t) = @_;
    for (1 .. 100)
    {
        last if rows('a', $t) eq rows('b', $t);
        select undef, undef, undef, 0.05;
    }
    quick_beats(0);
    carry_all();
    return;
}

scenario('lost before it was visible', 'late-own', 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    insert_unseen($t);
    quick_beats(1);
    # one more entry has the applier look around
    sql('a', "INSERT INTO $t VALUES (2, 'x')");
    carry_all();
    rows_become_the_same($t);
    return expect($t, '(2,x)');
});

# The same, while a user's lock keeps the applier from going through it and the cut could pass it.
scenario('the cut comes to what is still to be gone through', 'late-first', 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    my $late = insert_unseen($t);
    my $lock = in_background('a', "BEGIN; LOCK TABLE $t IN SHARE MODE; SELECT pg_advisory_lock(82); SELECT pg_sleep(300)");
    poll_until($server, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 82}, '1', 'a');
    quick_beats(1);
    # all is known to all
    for (1 .. 20)
    {
        sql($_, 'INSERT INTO beats VALUES (default)') for qw(a b);
        carry_all();
        last if sql('a', 'SELECT cut FROM cozesync.local_node') >= $late;
        select undef, undef, undef, 0.1;
    }
    sql('a', q{SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 82});
    rows_become_the_same($t);
    return expect($t, '');
});

# What is kept of the state at the cut is no row that somebody inserts meanwhile.
scenario('a row that comes while the cut moves', 'rows-then-index', 'k int PRIMARY KEY, u text UNIQUE', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (7, 'o'), (8, 's')");
    carry_all();
    # a frees the value without having seen what b wrote, which the cut passes
    sql('b', "INSERT INTO $t VALUES (1, 'q')");
    sql('a', "INSERT INTO $t VALUES (2, 'x')");
    carry('a', 'b');
    sql('a', "UPDATE $t SET u = NULL WHERE k = 8");
    my $freed = held('a', 'a');
    sql('b', "INSERT INTO $t VALUES (3, 'r')");
    carry('b', 'a');
    carry_upto('a', 'b', $freed);
    sql('b', "UPDATE $t SET u = 's' WHERE k = 1");
    sql('a', "INSERT INTO $t VALUES (4, 'y')");
    # an applier that starts anew moves the cut at once
    stop_at('records-before-rows');
    restart_applier('a');
    my $met = stopped_at('records-before-rows');
    sql('a', "INSERT INTO $t VALUES (9, 's')");
    go_at('records-before-rows');
    return 'no record to keep' if !$met;
    carry_all();
    carry_all();
    return expect($t, '(1,s) (2,x) (3,r) (4,y) (7,o) (8,)');
});

# An applier that starts anew does not know which own entries it has gone through; the row shows
# one of them, merged with what it had not seen, already.
scenario('an own write gone through again', 'own-shown', 'k int PRIMARY KEY, n int, v text', sub {
    my ($t) = @_;
    policy($t, q{'merge'});
    sql('a', "SELECT cozesync.set_column_policy('$t', 'n', 'delta')");
    sql('a', "INSERT INTO $t VALUES (1, 0, 'o')");
    carry_all();
    sql('b', "UPDATE $t SET n = n + 2 WHERE k = 1");
    sql('a', "UPDATE $t SET n = n + 1, v = 'a' WHERE k = 1");
    carry_all();
    # a owes a beat, which it makes after it has gone through its own
    sql('b', 'INSERT INTO beats VALUES (default)');
    carry('b', 'a');
    my $before = held('a', 'a');
    restart_applier('a');
    quick_beats(1);
    my $beat = 0;
    for (1 .. 400)
    {
        $beat = held('a', 'a') > $before and last;
        select undef, undef, undef, 0.05;
    }
    quick_beats(0);
    return 'no beat' if !$beat;
    my $said = sql('a', "SELECT string_agg(conflict_type || ' ' || reason, ',') FROM cozesync.conflict WHERE table_name = '$t'");
    return $said || expect($t, '(1,3,a)');
});

# The function was replaced on one node.
scenario('a resolver that is another', 'resolver-digest', 'k int PRIMARY KEY, v text', sub {
    my ($t, $off) = @_;
    my $function = sub { my ($say) = @_; return "CREATE OR REPLACE FUNCTION join_$t(e $t, l $t, b $t, c text) RETURNS $t IMMUTABLE
        LANGUAGE sql AS \$\$ SELECT (l.k, e.v || '$say' || l.v)::public.$t \$\$"; };
    sql($_, $function->('+')) for qw(a b);
    policy($t, "'resolver', resolver => 'public.join_$t($t, $t, $t, text)'");
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('b', $function->('-'));
    sql('a', "UPDATE $t SET v = 'x' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'y' WHERE k = 1");
    carry('b', 'a');
    my $upto = carry_no_wait('a', 'b');
    if (!$off)
    {
        my $file = $server->logfile;
        for (1 .. 400)
        {
            last if slurp_file($file) =~ /resolver public.join_$t.* is not what it was/;
            select undef, undef, undef, 0.05;
        }
        return 'no word of it' if slurp_file($file) !~ /resolver public.join_$t.* is not what it was/;
        return 'not stopped' if rows('b', $t) ne '(1,y)';
        sql('b', $function->('+'));
    }
    wait_applied('b', 'a', $upto);
    return expect($t, '(1,x+y)');
});

scenario('write on a held row', undef, 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    policy($t, q{'hold'});
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('a', "UPDATE $t SET v = 'kept' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'aside' WHERE k = 1");
    # the hold comes late: somebody writes on what is set aside, then one who saw the winner
    sql('b', "UPDATE $t SET v = v || '+1' WHERE k = 1");
    carry_all();
    my $rows = expect($t, '(1,kept)');
    return $rows if $rows;
    my $held = join ' ', map { sql($_, "SELECT string_agg(concat_ws('>', local_row ->> 'v', remote_row ->> 'v'), ',' ORDER BY loser_hlc)
        FROM cozesync.conflict WHERE table_name = '$t' AND outcome = 'held'") } qw(a b);
    return "held $held" if $held ne 'kept>aside,kept>aside+1 aside>kept,aside+1>kept';
    sql('b', "UPDATE $t SET v = v || '+2' WHERE k = 1");
    carry_all();
    return expect($t, '(1,kept+2)');
});

scenario('merged, and invalid', undef, 'k int PRIMARY KEY, x int, y int, n smallint, CHECK (x < y)', sub {
    my ($t) = @_;
    policy($t, q{'merge'});
    sql('a', "SELECT cozesync.set_column_policy('$t', 'n', 'delta')");
    sql('a', "INSERT INTO $t VALUES (1, 1, 9, 30000), (2, 1, 9, 30000)");
    carry_all();
    sql('a', "UPDATE $t SET x = 7 WHERE k = 1");
    sql('b', "UPDATE $t SET y = 5 WHERE k = 1");
    sql('a', "UPDATE $t SET n = n + 2000 WHERE k = 2");
    sql('b', "UPDATE $t SET n = n + 1500 WHERE k = 2");
    carry_all();
    return expect($t, '(1,1,5,30000) (2,1,9,31500)');
});

# Settled on one node before the other has heard of the conflict.
scenario('settled with the conflict', undef, 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    policy($t, q{'hold'});
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('a', "UPDATE $t SET v = 'x' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'y' WHERE k = 1");
    carry('b', 'a');
    sql('a', "SELECT cozesync.resolve_conflict(id, 'remote') FROM cozesync.conflicts WHERE table_name = '$t'");
    carry_all();
    my $state = join ' ', map { sql($_, "SELECT string_agg(outcome, ',') FROM cozesync.conflicts WHERE table_name = '$t'") } qw(a b);
    return $state eq 'resolved resolved' ? expect($t, '(1,y)') : $state;
});

# The cut passes one of three; see counterexamples.
scenario('a cut through a conflict', 'records', 'k int PRIMARY KEY, n int', sub {
    my ($t) = @_;
    policy($t, q{'merge'});
    sql('a', "SELECT cozesync.set_column_policy('$t', 'n', 'delta')");
    sql('a', "INSERT INTO $t VALUES (1, 0)");
    carry_all();
    carry_all();
    my $add = "UPDATE $t SET n = n + 1 WHERE k = 1";
    my $other = 0;
    my $beat = sub { sql($_[0], 'INSERT INTO beats VALUES (default)') };
    sql('b', $add);
    my $r = held('b', 'b');
    $beat->('a');
    carry('a', 'b');
    $beat->('b');
    sql('a', $add);
    sql('a', $add);
    carry('b', 'a');
    $beat->('a');
    quick_beats(1);
    poll_until($server, "SELECT cut >= $r FROM cozesync.local_node", 't', 'a') or return 'the cut stands still';
    quick_beats(0);
    sql('b', $add);
    carry('b', 'a');
    carry_all();
    return expect($t, '(1,4)');
});

done_testing();
