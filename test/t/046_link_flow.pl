# Flow control: small windows, entries larger than any window, an origin that stands
# still; nothing waits for ever, and nothing else waits for what cannot go on.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;
use Time::HiRes qw(usleep);

my ($a, $b, $c) = new_group(
    nodes => [qw(a b c)],
    conf => "cozesync.batch_size = '64kB'\n",
    schema => q{CREATE TABLE one (id int PRIMARY KEY, t text);
                CREATE TABLE two (id int PRIMARY KEY, t text)});
my @nodes = ($a, $b, $c);
$c->safe_psql('postgres', 'CREATE TABLE go (id int)');

sub worker
{
    my ($node, $kind) = @_;
    return $node->safe_psql('postgres',
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cozesync $kind'");
}

# --- what a goes to c by b only -------------------------------------------------------

$a->safe_psql('postgres', q{SELECT cozesync.set_link('a', 'c', 'off');
    SELECT cozesync.set_link('c', 'a', 'off')});
ok(wait_quiet(@nodes), 'a chain');

# --- an entry many windows long, with workers that die on its way ---------------------

for my $mode (qw(push pull))
{
    $a->safe_psql('postgres', "SELECT cozesync.set_link('a', 'b', '$mode');
        SELECT cozesync.set_link('b', 'c', '$mode')");
    ok(wait_quiet(@nodes), "links are $mode");
    $a->safe_psql('postgres', qq{DELETE FROM one;
        INSERT INTO one SELECT g, repeat('$mode', 250) FROM generate_series(1, 10000) g});
    for my $node (@nodes, $b, $c)
    {
        my $kind = rand() < 0.5 ? 'linker' : 'applier';
        usleep(rand 300_000);
        $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE backend_type = 'cozesync $kind'");
    }
    my $stopped = worker($b, 'linker');
    if ($stopped)
    {
        kill 'STOP', $stopped;
        usleep(300_000);
        kill 'CONT', $stopped;
    }
    ok(wait_quiet(@nodes), "a large entry arrives ($mode)");
    same_rows(\@nodes, ['one']);
}

# --- what a wrote cannot be applied at c, and what b wrote afterwards waits for it --------

my $before = $c->safe_psql('postgres', 'SELECT count(*) FROM one');
my $holder = background($c, q{BEGIN; LOCK TABLE one IN SHARE MODE;
    DO 'BEGIN WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.02); END LOOP; END';
    COMMIT;
    });
poll_until($c, q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'one'::regclass AND mode = 'ShareLock'});
$b->safe_psql('postgres', q{SELECT cozesync.pause('c')});
for my $n (1 .. 16)
{
    $a->safe_psql('postgres', "INSERT INTO one VALUES (-$n, 'stands still')");
    my $vector = $a->safe_psql('postgres', 'SELECT cozesync.vector()');
    $b->safe_psql('postgres', "SELECT cozesync.wait_for_vector('$vector')");
    $b->safe_psql('postgres', "INSERT INTO two SELECT $n * 100 + g, repeat('x', 1000) FROM generate_series(1, 50) g");
}
$b->safe_psql('postgres', q{SELECT cozesync.resume('c')});
is($b->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('500 ms', 'c')}), 'f',
    'not all that b holds is applied at c');
is($c->safe_psql('postgres', 'SELECT count(*) FROM one'), $before, 'nothing that a wrote is at c');
is($c->safe_psql('postgres', 'SELECT count(*) FROM two'), 0, 'and nothing that depends on it');

# --- waiting can be interrupted -----------------------------------------------------------

like(sql_error($b, q{SET statement_timeout = '300ms'; SELECT cozesync.wait_for_sync()}), qr/57014/,
    'wait_for_sync() ends with the statement');
like(sql_error($c, sprintf(q{SET statement_timeout = '300ms'; SELECT cozesync.wait_for_vector('%s')},
        $a->safe_psql('postgres', 'SELECT cozesync.vector()'))), qr/57014/,
    'and so does wait_for_vector()');

# True only when all is there: an applier that dies with a full queue changes nothing.
my $waiter = background($b, "SELECT cozesync.wait_for_sync('60 s', 'c');\n");
$c->safe_psql('postgres', 'INSERT INTO go VALUES (1)');
for (1 .. 3)
{
    $c->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE backend_type = 'cozesync applier'});
    usleep(100_000);
}
my (undef, $told) = $waiter->finish;
is($told, 't', 'wait_for_sync() is told');
is($c->safe_psql('postgres', 'SELECT count(*) FROM one WHERE id < 0'), 16, 'and everything is there');
$holder->finish;
ok(wait_quiet(@nodes), 'in the end all is applied');
same_rows(\@nodes, [qw(one two)]);

done_testing();
