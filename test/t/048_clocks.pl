# Clocks that are wrong: shown, and not obeyed.  A peer that is ahead is delayed, a clock
# that leaps is not followed unless the peers confirm it, and all heals by itself.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $shim = "$dir/skew.so";
if (system('cc', '-O', '-shared', '-fPIC', '-o', $shim, "$FindBin::RealBin/../lib/skew.c") != 0)
{
    plan skip_all => 'there is no C compiler for the clock that can be set';
}

my ($a, $b, $c) = new_group(
    nodes => [qw(a b c)],
    conf => "cozesync.max_clock_drift = '2s'\nlog_statement = none\n",
    schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my @all = ($a, $b, $c);
my $key = 0;

# The shift of b's clock, in ms.
sub set_clock
{
    my ($ms) = @_;
    open my $file, (-e "$dir/shift" ? '+<' : '>'), "$dir/shift" or die $!;
    syswrite $file, pack('l!', $ms);
    close $file;
    return;
}

sub restart_b
{
    $b->stop('fast');
    local %ENV = (%ENV, LD_PRELOAD => $shim, SKEW_FILE => "$dir/shift");
    $b->start;
    return;
}

sub write_on
{
    my ($node) = @_;
    $key++;
    $node->safe_psql('postgres', "INSERT INTO t VALUES ($key, 'x')");
    return $key;
}

sub has
{
    my ($node, $id) = @_;
    return poll_until($node, "SELECT count(*) = 1 FROM t WHERE id = $id");
}

# Seconds by which the hlc that b drew last is ahead of the time here.
sub ahead_of_b
{
    my $hlc = $b->safe_psql('postgres', q{SELECT extract(epoch FROM (v.value)::timestamptz)
        FROM cozesync.member m, jsonb_each_text(cozesync.vector()) v WHERE m.node_name = 'b' AND v.key = m.origin::text});
    return $hlc - time;
}

set_clock(0);
restart_b();
ok(wait_quiet(@all), 'three nodes');

# --- the clock leaps ---------------------------------------------------------------------

for my $shift (3_600_000, -3_600_000)
{
    my $way = $shift > 0 ? 'forward' : 'back';
    my $told = -s $b->logfile;
    set_clock($shift);
    ok(poll_until($b, sprintf(q{SELECT abs(extract(epoch FROM cozesync.clock_leap()) - %d) < 60}, $shift / 1000)),
        "a leap $way is seen");
    ok(has($a, write_on($b)), "what b writes is taken ($way)");
    ok(has($b, write_on($a)), "and b takes what others write ($way)");
    cmp_ok(abs(ahead_of_b()), '<', 5, 'a clock that leaps: holds');
    is($a->safe_psql('postgres', q{SELECT max(abs(extract(epoch FROM clock_skew))) < 2 FROM cozesync.links}), 't',
        'and shows no skew to others');
    ok(poll_until($b, q{SELECT clock_leap IS NOT NULL FROM cozesync.stats}), 'stats shows it');
    ok($b->wait_for_log(qr/WARNING: .*has leapt by -?3\d\d\d\.\d+ s, and is not followed/, $told), 'told in the log');

    # timers go on: a link that broke is made again
    $a->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'cozesync b'});
    ok(has($a, write_on($b)), "links are made again ($way)");
    set_clock(0);
    ok(poll_until($b, 'SELECT cozesync.clock_leap() IS NULL'), 'the clock is back');
}
ok(wait_quiet(@all), 'all goes on');

# Without the rule the node draws what the clock says.
debug_rule($b, 'clock-leap', 1);
set_clock(9_000);
my $lost = write_on($b);
cmp_ok(ahead_of_b(), '>', 5, 'a clock that leaps: breaks without the rule clock-leap');
set_clock(0);
debug_rule($b, 'clock-leap', 0);
ok(has($a, $lost), 'which others take once it has come');
ok(wait_quiet(@all), 'all goes on');

# --- a peer that is ahead -------------------------------------------------------------------

for my $mode (qw(push pull))
{
    $a->safe_psql('postgres', qq{SELECT cozesync.set_link('b', 'a', '$mode'); SELECT cozesync.set_link('b', 'c', '$mode')});
    ok(wait_quiet(@all), "b's links are $mode");
    set_clock(10_000);
    restart_b();
    ok(poll_until($a, q{SELECT extract(epoch FROM clock_skew) BETWEEN 8 AND 12 FROM cozesync.links WHERE source = 'b'}),
        "its skew is shown ($mode)");
    ok(has($b, write_on($a)), "it takes what others write ($mode)");
    my $early = write_on($b);
    ok(poll_until($a, q{SELECT last_error LIKE 'clock skew: node "b" sends %' FROM cozesync.links WHERE source = 'b'}),
        "what it writes is reported ($mode)");
    is($a->safe_psql('postgres', "SELECT count(*) FROM t WHERE id = $early"), 0, 'and not taken');
    ok(has($c, write_on($a)), "others go on ($mode)");

    # set right again: the peers confirm it
    set_clock(0);
    ok(has($a, $early), "it is taken once its time has come ($mode)");
    ok(poll_until($b, 'SELECT cozesync.clock_leap() IS NULL'), 'and the clock that is right is followed');
    ok(wait_quiet(@all), 'all goes on');
    same_rows(\@all, ['t']);
}
like(slurp_file($b->logfile), qr/LOG: .*was set by -\d+\.\d+ s, and is followed/, 'told in the log');

done_testing();
