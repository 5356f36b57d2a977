# Entries that wait for their causes take no room from those that bring the causes: what
# a peer may send is not used up by what cannot be applied yet.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use ApplyTest;
use Test::More;

my $server = apply_server('room', qw(a b c));
sql('postgres', q{ALTER SYSTEM SET cozesync.batch_size = '64kB'});
sql('postgres', q{SELECT pg_reload_conf()});
everywhere('t', 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my ($last, $after, $begin);

# A batch of so many transactions of some 9 kB each, put as soon as there is room.
sub put
{
    my ($n, $seconds) = @_;
    for (1 .. $n)
    {
        $last++;
        sql('a', qq{INSERT INTO t SELECT $last, string_agg(md5(random()::text), '') FROM generate_series(1, 300)});
    }
    my $upto = held('a', 'a');
    my $batch = sql('a', "SELECT encode(debug_batch(1, $after, $upto), 'hex')");
    my $said = "debug_put(1, $begin, decode('$batch', 'hex'))";
    ($after, $begin) = ($upto, 'false');
    return "DO \$\$ DECLARE said text; until timestamptz := clock_timestamp() + '$seconds s'; BEGIN
        LOOP said := $said; EXIT WHEN said <> 'full' OR clock_timestamp() > until; PERFORM pg_sleep(0.01); END LOOP;
        IF said <> 'taken' THEN RAISE 'transactions up to $last: %', said; END IF; END \$\$";
}

# Four batches come before the applier looks at them, and only the first entry can be applied:
# more than is kept of an origin in memory, so that the last are in a file for a while.  Then one
# that takes nearly the whole window.  1: there was room for it.
sub fill_window
{
    my ($seconds) = @_;
    sql($_, 'DELETE FROM t') for 'a';
    carry('a', $_) for qw(b c);
    ($last, $after, $begin) = (1, held('c', 'a'), 'true');
    sql('a', q{INSERT INTO t VALUES (1, 'free')});
    sql('b', q{INSERT INTO t VALUES (0, 'cause')});
    carry('b', 'a');
    stop_at('apply-before-commit');
    # in one session, as a link does
    my $put = in_background('c', join ";\n", (map { put(4, 60) } 1 .. 4), 'SELECT pg_advisory_lock(1)', put(20, $seconds));
    ok(stopped_at('apply-before-commit'), 'something can be applied');
    ok(poll_until($server, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'}, '1', 'c'), 'more has come');
    go_at('apply-before-commit');
    my ($status, $out, $err) = $put->finish;
    like($err, qr/^$|transactions up to $last: full/, 'all is taken, or there is no room');
    is(sql('c', 'SELECT count(*) FROM t'), 1, 'no more could be applied');
    return $status == 0;
}

ok(fill_window(30), 'what waits fills the window: holds');
ok(carry('a', 'c', 'b', 20), 'the cause comes from the same peer');
ok(wait_applied('c', 'a', held('a', 'a'), 20), 'all that waited for it');
is(sql('c', 'SELECT count(*) FROM t'), $last + 1, 'is applied');

rule_off('batches-last');
ok(!fill_window(3), 'what waits fills the window: breaks without the rule batches-last');

done_testing();
