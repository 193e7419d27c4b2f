/* How each picture is read, and what it does not say: one sentence and one caution for each. */

export const READING = {
  maps: {
    how: 'Each tile is one channel’s answer to the photograph: bright where the pattern it looks for is, dark where it is not; the strongest come first.',
    caution: 'Every tile has its own scale, so a bright spot in one may be weaker than a dim one in another: read the number under it.',
  },
  pca: {
    how: 'Places of one colour are alike to the network: red, green and blue are the three directions in which its channels vary most over this photograph.',
    caution: 'Three directions leave something out (the page says how much), and the same colour in another photograph or layer means something else.',
  },
  overlay: {
    how: 'The channel’s map laid over the photograph: warm where it is active.',
    caution: 'A unit sees its whole receptive field, which may be far larger than the spot that lights up.',
  },
  projection: {
    how: 'Left, the patch of the photograph that the channel’s strongest unit sees; right, the pixels that drove it, carried back through the network.',
    caution: 'Such projections partly recover the photograph whatever the unit stands for (Nie 2018, Adebayo 2018): compare several channels before you believe one.',
  },
  maximize: {
    how: 'A picture made from noise so that it excites this channel as much as possible; what repeats in it is what the channel looks for.',
    caution: 'It is one optimum among many and no photograph: other seeds and presets give other pictures, and natural images may excite the channel by something else.',
  },
  loss: {
    how: 'The objective after each step: it climbs steeply, then levels off.',
    caution: 'A high value says that the channel is excited, not that the picture is easy to understand.',
  },
  top: {
    how: 'The images of the set, and the patches in them, that excite the channel most.',
    caution: 'They show the set as much as the channel: what the set does not contain cannot appear.',
  },
  cam: {
    how: 'Warm regions speak for the class named above, at the resolution of the layer (here a few cells, smoothly enlarged).',
    caution: 'Each picture has its own scale, and a map that looks right does not prove that the network is right for this reason.',
  },
  saliency: {
    how: 'How much each input pixel pushes the target up (red) or down (blue).',
    caution: 'Gradients are local and noisy: a pale pixel may matter as soon as others change.',
  },
  occlusion: {
    how: 'A square hides one place after another; where the probability of the class falls most, the hidden part mattered most.',
    caution: 'The square is something the network has never seen: part of the fall may come from it, and evidence that exists twice hides itself.',
  },
  similarity: {
    how: 'Each cell says how alike its row and column respond to the same images, from 0 (unrelated) to 1 (the same up to rotation and scale).',
    caution: 'With few samples unrelated channels score well above 0: read every value against the baseline given beside the matrix.',
  },
};

export const CAM_METHODS = {
  cam: 'weights of the last linear layer', gradcam: 'mean gradient of each channel', 'gradcam++': 'positive gradients, weighted',
  hirescam: 'gradient times map, place by place', elementwise: 'the same, positive only', xgradcam: 'gradients normalised by the map',
  layercam: 'positive gradients, place by place', eigencam: 'first principal component; knows no class',
  eigengradcam: 'the same of gradient times map', scorecam: 'score of the image masked by each map',
  ablationcam: 'what the score loses without each channel', fullgrad: 'input and bias gradients of every layer',
  'guided-gradcam': 'guided backpropagation, masked',
};

export const SALIENCY_METHODS = {
  gradient: 'The plain gradient of the target.',
  'gradient-x-input': 'Gradient times the pixel’s value.',
  guided: 'Only positive signals pass each rectification on the way back.',
  smoothgrad: 'The mean gradient over noisy copies: smoother.',
  vargrad: 'Its variance over noisy copies.',
  'integrated-gradients': 'Gradients summed from black to the photograph; they add up to the change of the target.',
};
