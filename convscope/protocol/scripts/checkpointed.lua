#!lua flags=allow-oom
-- Remember where a run can be resumed, and the checkpoint before, should the newest be damaged. It has got further than
-- ever before: earlier crashes no longer count, and it need not be alone any more.

local held = owned(args.run, args.epoch)
if not held then return 'fenced' end
if held.checkpoint ~= args.ref or held.checkpoint_step ~= args.step then
  local was_alone = held.alone == '1'
  redis.call('HSET', key('run', args.run), 'previous_checkpoint', held.checkpoint, 'checkpoint', args.ref,
    'checkpoint_step', args.step, 'crashes', '0', 'lost', '0', 'alone', '0')
  count('checkpoints')
  if was_alone then ring('work') end
end
return held.cancelling == '1' and 'cancelled' or 'go-on'
